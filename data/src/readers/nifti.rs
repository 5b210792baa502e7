//! NIfTI-1, single files (`.nii`, `.nii.gz`): a plane of a volume. Rows are the volume's second dimension that is left, columns the
//! first, as `nibabel.load(…).dataobj[:, :, k].T`; nothing is turned or mirrored.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use morph_spec::dataset::Slice;

use super::{
    Image,
    npy::Element,
    volume::{self, Plane},
};

const HEADER: usize = 348;
const MAGIC: &[u8] = b"n+1\0";
/// No byte makes more of them (deflate).
const DENSEST: u64 = 1032;
/// Volumes are not unpacked beyond it.
const LARGEST: u64 = 512 << 20;

/// Bytes that are unpacked at a time; whole elements of any size.
const CHUNK: usize = 1 << 18;

/// Decodes the file. Of a packed volume only the plane is ever in memory.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn image(bytes: &[u8], slice: Option<Slice>) -> Result<Image, String> {
    if !is_packed(bytes) {
        let header = Header::of(bytes)?;
        let data = bytes.get(header.offset..).ok_or("no readable NIfTI: its values begin beyond its end")?;
        return header.element.image(data, header.plane(slice)?, header.rescale);
    }
    let bad = |e: io::Error| format!("no readable NIfTI: {e}");
    let most = LARGEST.min((bytes.len() as u64).saturating_mul(DENSEST));
    let mut unpacked = MultiGzDecoder::new(bytes).take(most + 1);
    let mut head = Vec::new();
    unpacked.by_ref().take(HEADER as u64).read_to_end(&mut head).map_err(bad)?;
    let header = Header::of(&head)?;
    let plane = header.plane(slice)?;
    io::copy(&mut unpacked.by_ref().take((header.offset - HEADER) as u64), &mut io::sink()).map_err(bad)?;
    let data = gather(&mut unpacked, plane, header.element.size()).map_err(bad)?;
    // To its end, where its checksum is: half a file is none.
    io::copy(&mut unpacked, &mut io::sink()).map_err(bad)?;
    if unpacked.limit() == 0 {
        return Err(format!("it unpacks to more than {most} bytes: such volumes are not read"));
    }
    let alone = Plane { start: 0, down: plane.columns, across: 1, ..plane };
    header.element.image(&data, alone, header.rescale)
}

/// How many pixels come out of the file at most, about, in the memory that two bytes each need. What it claims is believed: memory is
/// taken as values come.
pub(super) fn size(bytes: &[u8]) -> u64 {
    let mut head = Vec::new();
    let read = match is_packed(bytes) {
        true => MultiGzDecoder::new(bytes).take(HEADER as u64).read_to_end(&mut head).map(|_| &*head),
        false => Ok(bytes),
    };
    // What cannot be read takes none.
    let Some(header) = read.ok().and_then(|head| Header::of(head).ok()) else { return 0 };
    let mut sides = header.shape;
    sides.sort_unstable_by(|a, b| b.cmp(a));
    let pixels = sides.iter().take(2).fold(1, |all: u64, side| all.saturating_mul(*side));
    // Wider values become floats, beside what they were.
    pixels.saturating_mul(match header.element.size() {
        0..=2 => 1,
        3..=4 => 2,
        _ => 3,
    })
}

fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// The plane's elements, one after the other, out of a volume that comes once: fewer when it ends before.
fn gather(volume: &mut impl Read, plane: Plane, size: usize) -> io::Result<Vec<u8>> {
    let (mut found, mut chunk, mut begin) = (Vec::new(), Vec::new(), 0usize);
    // In the order of the file: what varies slower lies down.
    let mut wanted = plane.positions().map_while(|at| at?.checked_mul(size)).peekable();
    while wanted.peek().is_some() {
        chunk.clear();
        if volume.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)? == 0 {
            break;
        }
        let end = begin + chunk.len();
        while let Some(at) = wanted.next_if(|at| *at < end) {
            found.extend_from_slice(chunk.get(at - begin..).and_then(|rest| rest.get(..size)).unwrap_or_default());
        }
        begin = end;
    }
    Ok(found)
}

/// What a file says of its values.
struct Header {
    /// The slowest first.
    shape: Vec<u64>,
    element: Element,
    /// Where values begin.
    offset: usize,
    rescale: (f64, f64),
}

impl Header {
    fn of(bytes: &[u8]) -> Result<Self, String> {
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
        let (slope, intercept) = (f64::from(float(112, big)), f64::from(float(116, big)));
        // A slope of 0 means that there is none.
        let rescale =
            if slope == 0.0 || !slope.is_finite() || !intercept.is_finite() { (1.0, 0.0) } else { (slope, intercept) };
        Ok(Self { shape, element, offset: offset as usize, rescale })
    }

    fn plane(&self, slice: Option<Slice>) -> Result<Plane, String> {
        let dims = self.shape.len();
        volume::plane(&self.shape, slice, |axis| dims.wrapping_sub(1).wrapping_sub(axis as usize))
    }
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
        let gz = packed(&plain);
        assert_eq!(super::image(&gz, slice).unwrap(), image);
        let first = super::image(&plain, Some(Slice { axis: 0, index: Some(1) })).unwrap();
        assert_eq!((first.width, first.height), (3, 2));
        assert_eq!(first.values, Values::Words(vec![1, 3, 5, 7, 9, 11]));
        for cut in [0, 100, 351, plain.len() - 1] {
            assert!(super::image(&plain[..cut], slice).is_err(), "cut at {cut}");
        }
        for cut in [4, 9, gz.len() / 2] {
            assert!(super::image(&gz[..gz.len() - cut], slice).is_err(), "half a packed file is no file");
        }
        let long = [plain, vec![0; 3 * CHUNK]].concat();
        assert_eq!(super::image(&packed(&long), slice).unwrap(), image, "what comes after the values does not matter");
    }

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(plain).unwrap();
        gz.finish().unwrap()
    }

    /// Every plane of volumes that come in several parts, of every size of elements, is the one of the plain file.
    #[test]
    fn a_plane_is_gathered_out_of_a_packed_volume() {
        let shape = [70, 50, 90];
        for (datatype, wide) in [(2, 1u32), (512, 2), (16, 4), (64, 8)] {
            let values = 0..70 * 50 * 90u32;
            let data: Vec<u8> = match wide {
                1 => values.map(|v| (v * 7 % 251) as u8).collect(),
                2 => values.flat_map(|v| (v as u16).to_le_bytes()).collect(),
                4 => values.flat_map(|v| (v as f32).to_le_bytes()).collect(),
                _ => values.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
            };
            assert!(data.len() > CHUNK, "it comes in parts");
            let plain = file(&shape, datatype, 1.0, &data);
            for axis in 0..3 {
                for index in [0, 1, 33, 49] {
                    let slice = Some(Slice { axis, index: Some(index) });
                    let (whole, gathered) = (image(&plain, slice).unwrap(), image(&packed(&plain), slice).unwrap());
                    assert!(gathered == whole, "plane {index} on axis {axis}, elements of {wide} bytes");
                }
            }
            let factor = [1, 1, 2, 3][wide.ilog2() as usize];
            assert_eq!((size(&plain), size(&packed(&plain))), (70 * 90 * factor, 70 * 90 * factor));
            let cut = plain.len() - 5;
            let last = Some(Slice { axis: 2, index: Some(89) });
            assert!(image(&packed(&plain[..cut]), last).unwrap_err().contains("cut off"));
        }
        assert_eq!(size(b"no volume"), 0);
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
