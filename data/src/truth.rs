//! What is known of images beside their dataset: the same patient without the disease, where the lesion is, where to look.
//!
//! A folder of PNG files by sample id: `twins/<id>.png`, `lesions/<id>.png`, `masks/<id>.png`; each may be missing. Twins are grey
//! images, lesions and masks are white where something is. They are brought to the prepared images' size as these were; so they
//! must show the same section of the patient. Phantoms come with one (`truth/` beside the raw files); masks may come from a
//! segmentation of anybody's. COVID-19 Radiography's own folder is one, too: the mask of `<class>/<name>` lies at `<class>/masks/<name>.png`.

use bytes::Bytes;
use morph_objects::Objects;
use morph_spec::Digest;

use crate::{Error, readers::png, resize::pillow_bilinear, stays_within};

/// The folder's name beside a phantom's raw files.
pub const FOLDER: &str = "truth";

/// What a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The same patient without the disease.
    Twin,
    /// Where the lesion is.
    Lesion,
    /// Where to look: the lungs.
    Mask,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Twin, Self::Lesion, Self::Mask];

    /// The folder that holds these files.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Twin => "twins",
            Self::Lesion => "lesions",
            Self::Mask => "masks",
        }
    }

    /// Where the file of sample `id` lies.
    pub fn key(self, id: &str) -> String {
        format!("{}/{id}.png", self.folder())
    }

    /// Where it may lie, the first that is there counts.
    fn keys(self, id: &str) -> impl Iterator<Item = String> {
        let beside = id.rsplit_once('/').filter(|_| self == Self::Mask);
        std::iter::once(self.key(id)).chain(beside.map(|(class, name)| format!("{class}/masks/{name}.png")))
    }
}

/// What is known of one image, at the prepared size, row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Truth {
    /// The same patient without the disease, 0..=255.
    pub twin: Option<Vec<u8>>,
    /// Whether a pixel shows the lesion.
    pub lesion: Option<Vec<bool>>,
    /// Whether to look at a pixel.
    pub mask: Option<Vec<bool>>,
    /// BLAKE3 of each file that says so, of its name and its bytes.
    pub files: Vec<Digest>,
}

/// What the folder `truth` knows of the image `id`, at `height` × `width` pixels. What is not there is `None`.
///
/// # Errors
/// When a file cannot be fetched or is no PNG.
pub async fn read(truth: &Objects, id: &str, [height, width]: [u32; 2]) -> Result<Truth, Error> {
    if !stays_within(id) {
        return Ok(Truth::default());
    }
    let (mut found, mut files) = ([None, None, None], Vec::new());
    for (kind, pixels) in Kind::ALL.into_iter().zip(&mut found) {
        let Some((key, bytes)) = first(truth, kind.keys(id)).await? else { continue };
        files.push(Digest::of(&[key.as_bytes(), &[0], &bytes].concat()));
        let grey = png::read(&bytes).map_err(|why| Error::Source { path: truth.url_of(&key), why })?;
        *pixels = Some(pillow_bilinear(&grey, width as usize, height as usize).pixels);
    }
    let [twin, lesion, mask] = found;
    let where_white = |pixels: Option<Vec<u8>>| pixels.map(|p| p.into_iter().map(|v| v >= 128).collect());
    Ok(Truth { twin, lesion: where_white(lesion), mask: where_white(mask), files })
}

/// The first of `keys` that is there, with its bytes.
async fn first(truth: &Objects, keys: impl Iterator<Item = String>) -> Result<Option<(String, Bytes)>, Error> {
    for key in keys {
        match truth.get(&key).await {
            Ok(bytes) => return Ok(Some((key, bytes))),
            Err(morph_objects::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Silent, synth};

    #[tokio::test]
    async fn phantoms_come_with_their_truth() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("raw");
        let options = synth::Options { root: root.clone(), seed: 3, healthy: 1, opacity: 1, other: 0, size: 64 };
        synth::write(&options, &Silent).unwrap();
        let truth = Objects::open(root.join(FOLDER).to_str().unwrap()).unwrap();
        let ids: Vec<String> = std::fs::read_dir(root.join("stage_2_train_images"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_str().unwrap().trim_end_matches(".dcm").to_owned())
            .collect();
        let mut with_lesion = 0;
        for id in &ids {
            let known = read(&truth, id, [32, 32]).await.unwrap();
            let lungs = known.mask.unwrap();
            assert!(lungs.len() == 1024 && lungs.contains(&true) && lungs.contains(&false));
            assert_eq!(known.twin.is_some(), known.lesion.is_some());
            if let Some(lesion) = known.lesion {
                with_lesion += 1;
                assert!(lesion.contains(&true) && lesion.len() == known.twin.unwrap().len());
            }
        }
        assert_eq!((ids.len(), with_lesion), (2, 1));
        assert_eq!(read(&truth, "nobody", [32, 32]).await.unwrap(), Truth::default());
        assert_eq!(read(&truth, "../truth/x", [32, 32]).await.unwrap(), Truth::default());
        assert_eq!(read(&truth, "COVID/x", [32, 32]).await.unwrap(), Truth::default(), "folders of classes");
        std::fs::write(root.join(FOLDER).join(Kind::Twin.key("bad")), b"no png").unwrap();
        assert!(read(&truth, "bad", [32, 32]).await.unwrap_err().to_string().contains("twins/bad.png"));

        // What an older build wrote is completed, and its images are not touched.
        let recipe = root.join("synth.json");
        let whole = std::fs::read_to_string(&recipe).unwrap();
        std::fs::write(&recipe, whole.replace("true", "false")).unwrap();
        std::fs::remove_dir_all(root.join(FOLDER)).unwrap();
        let written = synth::write(&options, &Silent).unwrap();
        assert!(written.reused && std::fs::read_to_string(&recipe).unwrap() == whole);
        assert!(read(&truth, &ids[0], [32, 32]).await.unwrap().mask.is_some());
    }

    #[tokio::test]
    async fn masks_of_covid19_radiography_are_found_where_it_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let png = |key: &str, levels: [u8; 4]| {
            let path = folder.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Three channels, as these are.
            let mut encoder = ::png::Encoder::new(std::fs::File::create(&path).unwrap(), 2, 2);
            encoder.set_color(::png::ColorType::Rgb);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&levels.map(|level| [level; 3]).concat()).unwrap();
        };
        png("COVID/masks/COVID-1.png", [255, 0, 0, 255]);
        png("COVID/images/COVID-1.png", [9; 4]);
        let truth = Objects::open(folder.path().to_str().unwrap()).unwrap();
        let known = read(&truth, "COVID/COVID-1", [2, 2]).await.unwrap();
        assert_eq!(known.mask, Some(vec![true, false, false, true]));
        assert_eq!((known.twin, known.lesion, known.files.len()), (None, None, 1));
        assert_eq!(read(&truth, "COVID/COVID-2", [2, 2]).await.unwrap(), Truth::default());
        // A mask of one's own goes first.
        png("masks/COVID/COVID-1.png", [0, 255, 0, 0]);
        let known = read(&truth, "COVID/COVID-1", [2, 2]).await.unwrap();
        assert_eq!(known.mask, Some(vec![false, true, false, false]));
    }
}
