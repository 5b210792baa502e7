//! Residuals laid over their images, on the one scale that the healthy validation images give: `<set>/<id>.png`, and beside it
//! `<id>.dcm` where the source is DICOM and at hand.

use std::{fs, path::Path};

use morph_data::{
    Meta, Samples, frame,
    heatmap::{Map, captioned, overlay, overlay_within},
    picture::Rgb,
    readers::{Grey, dicom},
    resize::pillow_bilinear,
    secondary_capture::{self, Capture, RESEARCH_USE_ONLY, Source, Uids},
    stays_within,
};
use morph_model::Method;

use crate::{
    evaluate::{Scene, passes::images},
    rank::{failure::Failure, images::TestSamples},
};

/// Least side of a picture that is drawn over a prepared image.
const SIDE: usize = 512;

/// What is drawn, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The folder that the pictures are written into.
    pub folder: &'a Path,
    /// The root of the dataset's raw files: pictures are drawn over these, and DICOM files get DICOM pictures.
    pub source: Option<&'a Path>,
    /// The residual that has the brightest colour.
    pub scale: f64,
    /// What made the reconstructions, for the pictures' descriptions: the checkpoint's URL.
    pub made_by: &'a str,
}

/// Draws |x − x̂| of every test image; how many.
///
/// # Errors
/// When a file cannot be written or a source not be read.
pub fn write(scene: &Scene<'_>, method: &dyn Method, request: &Request<'_>) -> Result<usize, Failure> {
    let mut drawn = 0;
    for set in &scene.test.sets {
        images(scene, method, &set.name, &set.samples, None, |i, image| -> Result<(), String> {
            let meta = set.samples.meta(i);
            let values: Vec<f32> = image.residual().into_iter().map(|v| v as f32).collect();
            let map = Map { width: image.width, height: image.height, values: &values };
            drawn += 1;
            draw(request, set, i, &meta, &map, drawn)
        })?;
    }
    Ok(drawn)
}

fn draw(
    request: &Request<'_>,
    set: &TestSamples,
    i: usize,
    meta: &Meta,
    map: &Map<'_>,
    number: usize,
) -> Result<(), String> {
    let scale = request.scale as f32;
    let raw = request.source.map(|root| raw(root, meta)).transpose()?.flatten();
    let coloured = match &raw {
        Some((grey, _)) if grey.width >= map.width && grey.height >= map.height => {
            overlay_within(grey, map, frame::shown(grey.width, grey.height, &set.preprocess), scale)
        }
        _ => overlay(&enlarged(&set.samples, i), map, scale),
    };
    let title = format!("{} |x-x'| {RESEARCH_USE_ONLY}", meta.id);
    let picture = captioned(&coloured.map_err(|e| e.to_string())?, scale, &title);
    let path = place(request.folder, &set.name, &meta.id)?;
    save(&path.with_added_extension("png"), &picture.png().map_err(|e| e.to_string())?)?;
    if let Some((_, source)) = raw {
        save(&path.with_added_extension("dcm"), &captured(request, &picture, &source, meta, number)?)?;
    }
    Ok(())
}

/// The source file, if it is DICOM.
fn raw(root: &Path, meta: &Meta) -> Result<Option<(Grey, Source)>, String> {
    if !meta.source.to_ascii_lowercase().ends_with(".dcm") {
        return Ok(None);
    }
    let path = root.join(&meta.source);
    let said = |why: String| format!("{}: {why}", path.display());
    let bytes = fs::read(&path).map_err(|e| said(e.to_string()))?;
    if morph_spec::Digest::of(&bytes) != meta.digest {
        return Err(said("it is not the file that the dataset was prepared from".to_owned()));
    }
    let (grey, _) = dicom::read(&bytes).map_err(said)?;
    Ok(Some((grey, Source::of(&bytes).map_err(|e| said(e.to_string()))?)))
}

/// The prepared image, large enough for a caption.
fn enlarged(samples: &Samples, i: usize) -> Grey {
    let [height, width] = samples.image_size().map(|n| n as usize);
    let image = Grey { width, height, pixels: samples.image(i).to_vec() };
    let times = SIDE.div_ceil(width.min(height));
    pillow_bilinear(&image, width * times, height * times)
}

fn captured(
    request: &Request<'_>,
    picture: &Rgb,
    source: &Source,
    meta: &Meta,
    number: usize,
) -> Result<Vec<u8>, String> {
    // One series for all pictures of a study by one checkpoint.
    let uids = Uids::derived(&format!("{} {}", request.made_by, source.study_instance_uid), &meta.id);
    let derivation =
        format!("mean absolute residual of {}, colours from 0 to {:.6} of 1", request.made_by, request.scale);
    secondary_capture::write(&Capture {
        image: picture,
        source,
        uids: &uids,
        title: "morph |x-x'|",
        derivation: &derivation,
        version: crate::VERSION,
        series_number: 1,
        instance_number: u32::try_from(number).unwrap_or(u32::MAX),
        made_at: None,
    })
    .map_err(|e| e.to_string())
}

/// Where the picture of `id` goes, without its extension.
fn place(folder: &Path, set: &str, id: &str) -> Result<std::path::PathBuf, String> {
    if !stays_within(id) {
        return Err(format!("{id:?} is no name of a file"));
    }
    Ok(folder.join(set).join(id))
}

fn save(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, bytes))
        .map_err(|e| format!("write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stay_in_their_folder() {
        let at = |id: &str| place(Path::new("out"), "covid/healthy", id);
        assert_eq!(at("COVID/x-1").unwrap(), Path::new("out/covid/healthy/COVID/x-1"));
        assert!(at("../x").is_err() && at("/etc/x").is_err() && at("").is_err());
    }
}
