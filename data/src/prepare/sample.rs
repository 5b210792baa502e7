//! One raw file becomes one sample.

use std::fs;

use morph_spec::{
    Digest,
    dataset::{Preprocess, Resize},
};

use crate::{
    Meta,
    layouts::Item,
    readers::{self, Facts, Grey},
    resize,
};

/// Reads, decodes and resizes one image.
pub(super) fn read(item: &Item, label: &str, preprocess: &Preprocess) -> Result<(Vec<u8>, Meta), String> {
    let bytes = fs::read(&item.path).map_err(|e| e.to_string())?;
    let is_png = item.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    let (grey, facts) =
        if is_png { (readers::png::read(&bytes)?, Facts::default()) } else { readers::dicom::read(&bytes)? };
    if item.check_id && facts.id.as_ref().is_some_and(|id| *id != item.id) {
        return Err("the file's PatientID is not the one in its name".to_owned());
    }
    let boxes = boxes(item, &grey);
    let side = preprocess.size as usize;
    let prepared = match preprocess.resize {
        Resize::PillowBilinear => resize::pillow_bilinear(&grey, side, side),
    };
    let meta = Meta {
        id: item.id.clone(),
        patient: item.patient.clone(),
        label: label.to_owned(),
        view: facts.view,
        sex: facts.sex,
        age: facts.age,
        boxes,
        source: item.source.clone(),
        digest: Digest::of(&bytes),
    };
    Ok((prepared.pixels, meta))
}

/// The item's boxes in 0..1 of the image, cut at its edges.
fn boxes(item: &Item, grey: &Grey) -> Vec<[f32; 4]> {
    let (width, height) = match item.box_side {
        0.0 => (grey.width as f32, grey.height as f32),
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

    fn item(box_side: f32) -> Item {
        Item {
            id: "a".into(),
            patient: "a".into(),
            label: "Normal".into(),
            source: "a.dcm".into(),
            path: "a.dcm".into(),
            boxes: vec![[256.0, 512.0, 128.0, 64.0], [960.0, 0.0, 128.0, 2048.0]],
            box_side,
            check_id: false,
        }
    }

    #[test]
    fn boxes_are_in_units_of_the_image_and_end_at_its_edges() {
        let grey = Grey { width: 2048, height: 512, pixels: Vec::new() };
        let wanted = vec![[0.25, 0.5, 0.125, 0.0625], [0.9375, 0.0, 0.0625, 1.0]];
        assert_eq!(boxes(&item(1024.0), &grey), wanted, "RSNA's are in pixels of 1024, whatever the image has");
        assert_eq!(boxes(&item(0.0), &grey)[0], [0.125, 1.0, 0.0625, 0.0], "this one lies below the image");
    }
}
