//! What the compressed pixels of a DICOM file say of themselves. The decoders believe the DICOM header: a smaller picture than
//! it promises would leave a black band, and a larger one crashes them.

use dicom_dictionary_std::uids;

/// No picture has more pixels for a byte: a progressive JPEG may do with one bit for a block of 8x8.
pub(super) const DENSEST: f64 = 512.0;
/// JPEG-LS and JPEG 2000 have no such bound. Black pictures of a few hundred bytes exist; denser ones are not worth their memory.
const DENSEST_OF_ALL: f64 = 2048.0;
/// Where the segments of run-length coded pixels begin.
const RLE_HEADER: usize = 64;

/// Refuses a stream that cannot be the picture that the header of its file says, of `bytes` bytes a pixel.
pub(super) fn check(syntax: &str, stream: &[u8], rows: usize, columns: usize, bytes: usize) -> Result<(), String> {
    let unbounded =
        matches!(syntax, uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS | uids::JPEG2000_LOSSLESS | uids::JPEG2000);
    let densest = if unbounded { DENSEST_OF_ALL } else { DENSEST };
    if (rows * columns) as f64 > densest * stream.len() as f64 {
        return Err(format!("{} bytes hold no {rows}x{columns} pixels: the file is cut off", stream.len()));
    }
    if syntax == uids::RLE_LOSSLESS {
        return runs(stream, bytes);
    }
    let Some(frame) = frame(stream).or_else(|| size(stream).map(|(_, frame)| frame)) else {
        return Err("its compressed pixels do not say their size".to_owned());
    };
    let Frame { rows: r, columns: c, components, precision, .. } = frame;
    if (r as usize, c as usize, components) != (rows, columns, 1) {
        return Err(format!(
            "its header says {rows}x{columns} grey pixels, its JPEG stream {r}x{c} with {components} components"
        ));
    }
    if precision == 0 || precision as usize > 8 * bytes {
        return Err(format!("its header says {} bits, its JPEG stream {precision}", 8 * bytes));
    }
    Ok(())
}

/// Refuses run-length coded pixels (PS3.5 G.5) without a segment for each of the `bytes` of a pixel.
fn runs(fragment: &[u8], bytes: usize) -> Result<(), String> {
    let word = |at: usize| fragment.get(4 * at..)?.first_chunk().map(|word| u32::from_le_bytes(*word) as usize);
    let segments: Vec<usize> = (1..=bytes).filter_map(word).collect();
    let in_order = segments.first() == Some(&RLE_HEADER) && segments.is_sorted();
    let good = word(0) == Some(bytes) && in_order && segments.last().is_some_and(|last| *last < fragment.len());
    if good { Ok(()) } else { Err(format!("its run-length coded pixels have no {bytes} segments")) }
}

/// What a stream says of its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub rows: u32,
    pub columns: u32,
    pub components: u16,
    /// Bits of a sample.
    pub precision: u32,
    pub signed: bool,
}

/// The frame header (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2) of a JPEG or JPEG-LS stream; none when it is none or has none.
pub(super) fn frame(stream: &[u8]) -> Option<Frame> {
    let mut rest = stream.strip_prefix(&[0xff, 0xd8])?;
    loop {
        // Any number of fill bytes may come before a marker.
        while rest.first()? == &0xff && rest.get(1)? == &0xff {
            rest = &rest[1..];
        }
        let [0xff, marker, high, low, segment @ ..] = rest else { return None };
        match marker {
            // All that start a frame; the others in this range are tables.
            0xc0..=0xcf | 0xf7 if ![0xc4, 0xc8, 0xcc].contains(marker) => {
                let [precision, r1, r0, c1, c0, components, ..] = segment else { return None };
                let (rows, columns) = (u16::from_be_bytes([*r1, *r0]), u16::from_be_bytes([*c1, *c0]));
                return Some(Frame {
                    rows: rows.into(),
                    columns: columns.into(),
                    components: (*components).into(),
                    precision: (*precision).into(),
                    signed: false,
                });
            }
            // Pictures begin after the frame header: there is none.
            0xda => return None,
            _ => rest = segment.get(usize::from(u16::from_be_bytes([*high, *low])).checked_sub(2)?..)?,
        }
    }
}

/// The size (ISO 15444-1 A.5.1) in a JPEG 2000 stream, and where the stream begins: a file format may lie around it.
pub(super) fn size(stream: &[u8]) -> Option<(usize, Frame)> {
    let at = stream.windows(4).take(4096).position(|four| four == [0xff, 0x4f, 0xff, 0x51])?;
    let size = stream.get(at + 4..)?;
    let word = |at: usize| size.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b));
    let (right, bottom, left, top) = (word(4)?, word(8)?, word(12)?, word(16)?);
    let components = size.get(36..)?.first_chunk().map(|b| u16::from_be_bytes(*b))?;
    let depth = *size.get(38)?;
    let (rows, columns) = (bottom.checked_sub(top)?, right.checked_sub(left)?);
    let precision = u32::from(depth & 0x7f) + 1;
    Some((at, Frame { rows, columns, components, precision, signed: depth & 0x80 != 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_header_is_found_behind_tables() {
        let mut stream = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut stream, 90);
        encoder.encode(&[7; 40 * 24], 40, 24, jpeg_encoder::ColorType::Luma).unwrap();
        let wanted = Frame { rows: 24, columns: 40, components: 1, precision: 8, signed: false };
        assert_eq!(frame(&stream), Some(wanted));
        let filled = [&[0xff, 0xd8, 0xff, 0xff], &stream[2..]].concat();
        assert_eq!(frame(&filled), Some(wanted));
    }

    #[test]
    fn nothing_is_found_in_anything_else() {
        for stream in [&b""[..], b"\xff\xd8", b"\xff\xd8\xff\xe0\0\0", b"\xff\xd8\xff\xe0\xff\xff", b"\xff\xd8\xff\xff"]
        {
            assert_eq!(frame(stream), None, "{stream:?}");
        }
    }
}
