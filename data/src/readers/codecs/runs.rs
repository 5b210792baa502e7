//! Run-length coding (PS3.5 annex G): one segment for each byte of a pixel, the most significant first.

use crate::readers::Values;

/// The values of `pixels` pixels of `bytes` bytes. The header was looked at already ([`crate::readers::fragments`]).
pub(super) fn decode(stream: &[u8], pixels: usize, bytes: usize) -> Result<Values, String> {
    let offset = |i: usize| {
        let word = stream.get(4 * (i + 1)..)?.first_chunk()?;
        Some(u32::from_le_bytes(*word) as usize)
    };
    let segment = |i: usize| {
        let from = offset(i).ok_or("its run-length coded pixels are cut off")?;
        let to = if i + 1 < bytes { offset(i + 1).unwrap_or(0) } else { stream.len() };
        let packed = stream.get(from..to).ok_or("its run-length coded pixels are cut off")?;
        unpack(packed, pixels)
    };
    match bytes {
        1 => segment(0).map(Values::Bytes),
        2 => {
            let (high, low) = (segment(0)?, segment(1)?);
            Ok(Values::Words(high.iter().zip(low).map(|(h, l)| u16::from_be_bytes([*h, l])).collect()))
        }
        _ => Err(format!("run-length coded pixels of {bytes} bytes are not read")),
    }
}

/// PackBits.
fn unpack(packed: &[u8], pixels: usize) -> Result<Vec<u8>, String> {
    let cut_off = || "its run-length coded pixels are cut off".to_owned();
    let mut plain = Vec::with_capacity(pixels);
    let mut rest = packed;
    while plain.len() < pixels {
        let (head, tail) = rest.split_first().ok_or_else(cut_off)?;
        let left = pixels - plain.len();
        match *head {
            // So many bytes as they are, and one.
            n @ 0..=127 => {
                let run = tail.get(..usize::from(n) + 1).ok_or_else(cut_off)?;
                plain.extend_from_slice(&run[..run.len().min(left)]);
                rest = &tail[run.len()..];
            }
            128 => rest = tail,
            n => {
                let (byte, tail) = tail.split_first().ok_or_else(cut_off)?;
                plain.resize(plain.len() + (257 - usize::from(n)).min(left), *byte);
                rest = tail;
            }
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_literals() {
        assert_eq!(unpack(&[2, 1, 2, 3, 254, 9, 128, 0, 7], 7).unwrap(), [1, 2, 3, 9, 9, 9, 7]);
        assert_eq!(unpack(&[129, 5], 3).unwrap(), [5; 3], "what a run has beyond the image is padding");
        for cut in [&[][..], &[2, 1, 2], &[254], &[128, 128]] {
            assert!(unpack(cut, 3).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn words_are_two_planes() {
        let mut stream = vec![0; 64];
        (stream[0], stream[4], stream[8]) = (2, 64, 66);
        stream.extend([255, 0x12, 1, 0x34, 0x56]);
        assert_eq!(decode(&stream, 2, 2).unwrap(), Values::Words(vec![0x1234, 0x1256]));
    }
}
