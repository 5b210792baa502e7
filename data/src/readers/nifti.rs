//! NIfTI-1, single files (`.nii`, `.nii.gz`): a plane of a volume. Rows are the volume's second dimension that is left, columns the
//! first, as `nibabel.load(…).dataobj[:, :, k].T`; nothing is turned or mirrored.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use morph_spec::dataset::Slice;

use super::{Image, npy::Element, volume};

const HEADER: usize = 348;
const MAGIC: &[u8] = b"n+1\0";
/// No byte makes more of them (deflate).
const DENSEST: u64 = 1032;
/// Volumes are not unpacked beyond it.
const LARGEST: u64 = 512 << 20;

/// Decodes the file.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn image(bytes: &[u8], slice: Option<Slice>) -> Result<Image, String> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let most = LARGEST.min((bytes.len() as u64).saturating_mul(DENSEST));
        let mut plain = Vec::new();
        let read = MultiGzDecoder::new(bytes).take(most + 1).read_to_end(&mut plain);
        read.map_err(|e| format!("no readable NIfTI: {e}"))?;
        if plain.len() as u64 > most {
            return Err(format!("it unpacks to more than {most} bytes: such volumes are not read"));
        }
        return volume(&plain, slice);
    }
    volume(bytes, slice)
}

fn volume(bytes: &[u8], slice: Option<Slice>) -> Result<Image, String> {
    let bad = |why: &str| format!("no readable NIfTI: {why}");
    let header = bytes.get(..HEADER).ok_or_else(|| bad("it is too short"))?;
    if &header[344..348] != MAGIC {
        return Err(bad("it does not say n+1, as single files of NIfTI-1 do"));
    }
    let two = |at: usize, big: bool| {
        let pair = [header[at], header[at + 1]];
        if big { i16::from_be_bytes(pair) } else { i16::from_le_bytes(pair) }
    };
    let float = |at: usize, big: bool| {
        let four = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        if big { f32::from_be_bytes(four) } else { f32::from_le_bytes(four) }
    };
    let big = header[..4] == 348u32.to_be_bytes();
    if !big && header[..4] != 348u32.to_le_bytes() {
        return Err(bad("its header has another length"));
    }
    let dims = usize::try_from(two(40, big))
        .ok()
        .filter(|n| (1..=7).contains(n))
        .ok_or_else(|| bad("it has no dimensions"))?;
    let sizes: Result<Vec<u64>, _> = (1..=dims).map(|i| u64::try_from(two(40 + 2 * i, big))).collect();
    let mut shape = sizes.map_err(|_| bad("a dimension is negative"))?;
    // The first varies fastest.
    shape.reverse();
    let datatype = two(70, big);
    let element =
        Element::of_nifti(datatype, big).ok_or_else(|| bad(&format!("values of type {datatype} are not read")))?;
    let offset = float(108, big);
    if !(offset.is_finite() && (HEADER as f32..=1e9).contains(&offset)) {
        return Err(bad("its values begin nowhere"));
    }
    let data = bytes.get(offset as usize..).ok_or_else(|| bad("its values begin beyond its end"))?;
    let (slope, intercept) = (f64::from(float(112, big)), f64::from(float(116, big)));
    // A slope of 0 means that there is none.
    let rescale =
        if slope == 0.0 || !slope.is_finite() || !intercept.is_finite() { (1.0, 0.0) } else { (slope, intercept) };
    let plane = volume::plane(&shape, slice, |axis| dims.wrapping_sub(1).wrapping_sub(axis as usize))?;
    debug_assert!(element.size() > 0);
    element.image(data, plane, rescale)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::readers::Values;

    fn file(shape: &[i16], datatype: i16, slope: f32, data: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 352];
        header[..4].copy_from_slice(&348u32.to_le_bytes());
        header[40..42].copy_from_slice(&(shape.len() as i16).to_le_bytes());
        for (i, n) in shape.iter().enumerate() {
            header[42 + 2 * i..44 + 2 * i].copy_from_slice(&n.to_le_bytes());
        }
        header[70..72].copy_from_slice(&datatype.to_le_bytes());
        header[108..112].copy_from_slice(&352f32.to_le_bytes());
        header[112..116].copy_from_slice(&slope.to_le_bytes());
        header[344..348].copy_from_slice(MAGIC);
        [header, data.to_vec()].concat()
    }

    #[test]
    fn planes_of_a_volume_packed_and_plain() {
        let data: Vec<u8> = (0..12u16).flat_map(u16::to_le_bytes).collect();
        let plain = file(&[2, 3, 2], 512, 2.0, &data);
        let slice = Some(Slice { axis: 2, index: None });
        let image = image(&plain, slice).unwrap();
        assert_eq!((image.width, image.height, image.rescale), (2, 3, (2.0, 0.0)));
        assert_eq!(image.values, Values::Words(vec![6, 7, 8, 9, 10, 11]), "the middle plane, x across");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let gz = gz.finish().unwrap();
        assert_eq!(super::image(&gz, slice).unwrap(), image);
        let first = super::image(&plain, Some(Slice { axis: 0, index: Some(1) })).unwrap();
        assert_eq!((first.width, first.height), (3, 2));
        assert_eq!(first.values, Values::Words(vec![1, 3, 5, 7, 9, 11]));
        for cut in [0, 100, 351, plain.len() - 1] {
            assert!(super::image(&plain[..cut], slice).is_err(), "cut at {cut}");
        }
        assert!(super::image(&gz[..gz.len() - 9], slice).is_err(), "half a packed file is no file");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let says = |bytes: &[u8], why: &str| {
            let said = image(bytes, None).unwrap_err();
            assert!(said.contains(why), "it should say {why:?}: {said}");
        };
        says(&[0; 400], "n+1");
        says(&file(&[2, 3], 128, 0.0, &[0; 18]), "type 128");
        says(&file(&[-2, 3], 2, 0.0, &[0; 18]), "negative");
        says(&file(&[2, 3, 4], 2, 0.0, &[0; 24]), "source.slice");
        says(&file(&[30000, 3000], 2, 0.0, &[0; 24]), "cut off");
    }
}
