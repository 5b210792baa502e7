//! What a JPEG stream in a DICOM file says of itself. The decoder believes the DICOM header: a smaller picture than it promises
//! would leave a black band, and a larger one crashes it.

use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;

/// Refuses a file whose JPEG stream is of another size than its header says. Files without one pass.
pub(super) fn check(object: &DefaultDicomObject, rows: f64, columns: f64) -> Result<(), String> {
    let Some(fragments) = object.element_opt(tags::PIXEL_DATA).ok().flatten().and_then(|e| e.fragments()) else {
        return Ok(());
    };
    let Some(frame) = frame(&fragments.concat()) else { return Ok(()) };
    if (f64::from(frame.rows), f64::from(frame.columns), frame.components) == (rows, columns, 1) {
        return Ok(());
    }
    let Frame { rows: r, columns: c, components } = frame;
    Err(format!("its header says {rows}x{columns} grey pixels, its JPEG stream {r}x{c} with {components} components"))
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
