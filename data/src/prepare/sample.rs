//! One raw file becomes one sample.

use morph_spec::{
    Digest,
    dataset::{BurnedIn, Dataset},
};

use super::{
    choose::{self, Known},
    gate::Gate,
};
use crate::{
    Meta,
    frame::Frame,
    layouts::{Fault, Item, file_name},
    privacy::Hider,
    readers::{Facts, Image, Kind, Values, grey},
};

/// Bytes of memory for a pixel, from the decoder's buffer to the grey levels.
const PER_PIXEL: u64 = 8;

/// Grey levels from the darkest to the brightest pixel, below which an image is remarked upon.
const LEAST_SPAN: u8 = 64;
const FLAT: &str = "its grey levels span less than a quarter of those from black to white, as 12 bits in a file of 16 do: \
                    preprocess.levels min-max or percentile spreads them";

/// An image as it goes into its shard.
#[derive(Debug)]
pub(super) struct Sample {
    pub pixels: Vec<u8>,
    pub meta: Meta,
    /// What people should know of how it was made.
    pub remarks: Vec<&'static str>,
}

/// What all files of a job share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub spec: &'a Dataset,
    pub hider: Hider,
    /// For files as they are.
    pub files: Gate,
    /// For what comes out of them.
    pub pixels: Gate,
}

impl<'a> Shared<'a> {
    /// For a job that may take so many bytes of memory.
    pub(super) fn new(spec: &'a Dataset, memory: u64) -> Self {
        Self { spec, hider: Hider::new(&spec.privacy), files: Gate::new(memory / 8), pixels: Gate::new(memory / 2) }
    }

    /// Reads, decodes and resizes one image.
    pub(super) fn read(&self, item: &Item, label: &str) -> Result<Sample, Fault> {
        let spec = self.spec;
        let kind = Kind::of(file_name(&item.source)).map(|(kind, _)| kind).ok_or("its name ends in no known way")?;
        let _file = self.files.enter(item.place.len());
        let bytes = item.place.read()?;
        let _pixels = self.pixels.enter(kind.pixels(&bytes).saturating_mul(PER_PIXEL));
        let (mut image, found) = kind.read(&bytes, spec.source.slice)?;
        if item.check_id && found.id.as_ref().is_some_and(|id| *id != item.id) {
            return Err("the file's PatientID is not the one in its name".into());
        }
        if found.burned_in && spec.privacy.burned_in == BurnedIn::Skip {
            return Err("it says that text is burnt into its pixels (BurnedInAnnotation)".into());
        }
        let facts = merged(&item.facts, found);
        if let Some(reason) = choose::refused(&spec.filter, &facts, Known::All) {
            return Err(reason.into());
        }
        image.inverted ^= item.inverted;
        if let Some(bits) = item.bits {
            stored(&mut image, bits);
        }
        let boxes = boxes(item, &image);
        let grey = grey(&image, &spec.preprocess)?;
        let mut remarks = image.remarks;
        drop(image.values);
        if is_flat(&grey.pixels) {
            remarks.push(FLAT);
        }
        let frame = Frame::new(grey.width, grey.height, &spec.preprocess);
        let prepared = frame.draw(&grey, &spec.preprocess);
        let meta = Meta {
            id: item.id.clone(),
            patient: item.patient.clone(),
            label: label.to_owned(),
            view: facts.view,
            sex: facts.sex,
            age: facts.age,
            boxes: boxes.into_iter().filter_map(|b| frame.place(b)).collect(),
            source: item.source.clone(),
            digest: Digest::of(&bytes),
        };
        Ok(Sample { pixels: prepared.pixels, meta: self.hider.meta(meta), remarks })
    }
}

/// Whether hardly anything is to be seen in it.
fn is_flat(pixels: &[u8]) -> bool {
    // One in seven is enough to know, and costs nothing beside the decoder.
    let some = || pixels.iter().step_by(7);
    some().max().zip(some().min()).is_some_and(|(bright, dark)| bright - dark < LEAST_SPAN)
}

/// What tables say, and what the file says beside it.
fn merged(table: &Facts, file: Facts) -> Facts {
    Facts {
        id: file.id,
        view: table.view.clone().or(file.view),
        sex: table.sex.clone().or(file.sex),
        age: table.age.or(file.age),
        burned_in: file.burned_in,
    }
}

/// Takes a table's word for how many bits of 16 are used, unless there are values beyond them: then as many as these need.
fn stored(image: &mut Image, bits: u32) {
    if let Values::Words(values) = &image.values {
        let needed = u32::from(values.iter().copied().max().unwrap_or(0)).checked_ilog2().map_or(1, |top| top + 1);
        image.bits = bits.max(needed).min(16);
    }
}

/// The item's boxes in 0..1 of the image, cut at its edges.
fn boxes(item: &Item, image: &Image) -> Vec<[f32; 4]> {
    let (width, height) = match item.box_side {
        0.0 => (image.width as f32, image.height as f32),
        side => (side, side),
    };
    let unit = |[x, y, w, h]: &[f32; 4]| {
        let (left, top) = ((x / width).clamp(0.0, 1.0), (y / height).clamp(0.0, 1.0));
        let (right, bottom) = (((x + w) / width).clamp(0.0, 1.0), ((y + h) / height).clamp(0.0, 1.0));
        [left, top, right - left, bottom - top]
    };
    item.boxes.iter().map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layouts::Place;

    fn item(box_side: f32) -> Item {
        Item {
            boxes: vec![[256.0, 512.0, 128.0, 64.0], [960.0, 0.0, 128.0, 2048.0]],
            box_side,
            ..Item::new("a".into(), "Normal".into(), "a.dcm".into(), Place::File("a.dcm".into()))
        }
    }

    fn image(values: Vec<u16>) -> Image {
        Image::plain(2048, 512, Values::Words(values), 16)
    }

    #[test]
    fn boxes_are_in_units_of_the_image_and_end_at_its_edges() {
        let image = image(Vec::new());
        let wanted = vec![[0.25, 0.5, 0.125, 0.0625], [0.9375, 0.0, 0.0625, 1.0]];
        assert_eq!(boxes(&item(1024.0), &image), wanted, "RSNA's are in pixels of 1024, whatever the image has");
        assert_eq!(boxes(&item(0.0), &image)[0], [0.125, 1.0, 0.0625, 0.0], "this one lies below the image");
    }

    #[test]
    fn an_image_of_few_grey_levels_is_told_from_others() {
        assert!(is_flat(&[0, 16, 7].repeat(99)) && is_flat(&[255; 9]));
        assert!(!is_flat(&[0, 64].repeat(99)) && !is_flat(&[]));
    }

    #[test]
    fn a_table_is_believed_unless_values_say_otherwise() {
        for (values, said, bits) in
            [(vec![0, 4095], 12, 12), (vec![0, 4096], 12, 13), (vec![], 10, 10), (vec![65535], 8, 16)]
        {
            let mut image = image(values);
            stored(&mut image, said);
            assert_eq!(image.bits, bits);
        }
    }
}
