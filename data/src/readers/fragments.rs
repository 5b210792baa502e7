//! What the compressed pixels of a DICOM file say of themselves. The decoders believe the DICOM header: a smaller picture than
//! it promises would leave a black band, and a larger one crashes them.

use dicom_dictionary_std::{tags, uids};
use dicom_object::DefaultDicomObject;

/// No picture has more pixels for a byte: a progressive JPEG may do with one bit for a block of 8x8.
const DENSEST: f64 = 512.0;
/// Where the segments of run-length coded pixels begin.
const RLE_HEADER: usize = 64;

/// Refuses a file whose compressed pixels cannot be the picture that its header says, of `bytes` bytes a pixel. Files without
/// compression pass.
pub(super) fn check(object: &DefaultDicomObject, rows: f64, columns: f64, bytes: usize) -> Result<(), String> {
    let Some(fragments) = object.element_opt(tags::PIXEL_DATA).ok().flatten().and_then(|e| e.fragments()) else {
        return Ok(());
    };
    let stream = fragments.concat();
    if rows * columns > DENSEST * stream.len() as f64 {
        return Err(format!("{} bytes hold no {rows}x{columns} pixels: the file is cut off", stream.len()));
    }
    if object.meta().transfer_syntax() == uids::RLE_LOSSLESS {
        return runs(&stream, bytes);
    }
    let Some(frame) = frame(&stream) else { return Ok(()) };
    if (f64::from(frame.rows), f64::from(frame.columns), frame.components) == (rows, columns, 1) {
        return Ok(());
    }
    let Frame { rows: r, columns: c, components } = frame;
    Err(format!("its header says {rows}x{columns} grey pixels, its JPEG stream {r}x{c} with {components} components"))
}

/// Refuses run-length coded pixels (PS3.5 G.5) without a segment for each of the `bytes` of a pixel.
fn runs(fragment: &[u8], bytes: usize) -> Result<(), String> {
    let word = |at: usize| fragment.get(4 * at..)?.first_chunk().map(|word| u32::from_le_bytes(*word) as usize);
    let segments: Vec<usize> = (1..=bytes).filter_map(word).collect();
    let in_order = segments.first() == Some(&RLE_HEADER) && segments.is_sorted();
    let good = word(0) == Some(bytes) && in_order && segments.last().is_some_and(|last| *last < fragment.len());
    if good { Ok(()) } else { Err(format!("its run-length coded pixels have no {bytes} segments")) }
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    rows: u16,
    columns: u16,
    components: u8,
}

/// The frame header (ISO 10918-1 B.2.2) of a JPEG stream; none when it is no JPEG stream or has none.
fn frame(stream: &[u8]) -> Option<Frame> {
    let mut rest = stream.strip_prefix(&[0xff, 0xd8])?;
    loop {
        // Any number of fill bytes may come before a marker.
        while rest.first()? == &0xff && rest.get(1)? == &0xff {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, segment @ ..] = rest else { return None };
        match marker {
            // All that start a frame; the others in this range are tables.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(marker) => {
                let [_, r1, r0, c1, c0, components, ..] = segment else { return None };
                let (rows, columns) = (u16::from_be_bytes([*r1, *r0]), u16::from_be_bytes([*c1, *c0]));
                return Some(Frame { rows, columns, components: *components });
            }
            // Pictures begin after the frame header: there is none.
            0xda => return None,
            _ => rest = segment.get(usize::from(u16::from_be_bytes([*high, *low])).checked_sub(2)?..)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_header_is_found_behind_tables() {
        let mut stream = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut stream, 90);
        encoder.encode(&[7; 40 * 24], 40, 24, jpeg_encoder::ColorType::Luma).unwrap();
        assert_eq!(frame(&stream), Some(Frame { rows: 24, columns: 40, components: 1 }));
        let filled = [&[0xff, 0xd8, 0xff, 0xff], &stream[2..]].concat();
        assert_eq!(frame(&filled), Some(Frame { rows: 24, columns: 40, components: 1 }));
    }

    #[test]
    fn nothing_is_found_in_anything_else() {
        for stream in [&b""[..], b"\xff\xd8", b"\xff\xd8\xff\xe0\0\0", b"\xff\xd8\xff\xe0\xff\xff", b"\xff\xd8\xff\xff"]
        {
            assert_eq!(frame(stream), None, "{stream:?}");
        }
    }
}
