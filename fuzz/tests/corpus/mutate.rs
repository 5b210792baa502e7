//! Bytes that are nearly right.

use morph_spec::Rng;

/// No input grows beyond this.
const LONGEST: usize = 64 << 10;
/// Lengths and counts that parsers stumble over.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// `input` with one to four changes; `other` lends parts of itself.
pub fn mutated(input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + rng.below(4) {
        change(&mut bytes, other, rng);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn below(rng: &mut Rng, n: usize) -> usize {
    rng.below(n.max(1) as u64) as usize
}

/// Some range of `0..len`, mostly short.
fn range(rng: &mut Rng, len: usize) -> std::ops::Range<usize> {
    let from = below(rng, len);
    let most = if rng.below(4) == 0 { len } else { 16 };
    from..len.min(from + 1 + below(rng, most))
}

fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let len = bytes.len();
    match rng.below(10) {
        // A bit, a byte.
        0 | 1 if len > 0 => bytes[below(rng, len)] ^= 1 << rng.below(8),
        2 if len > 0 => bytes[below(rng, len)] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'9'][below(rng, 8)],
        // Cut off.
        3 => bytes.truncate(below(rng, len)),
        // A part taken out, or there again and again.
        4 => drop(bytes.drain(range(rng, len))),
        5 if len > 0 => {
            let part = bytes[range(rng, len)].to_vec();
            let times = 1 << rng.below(8);
            let at = below(rng, len);
            bytes.splice(at..at, part.repeat(times).into_iter().take(LONGEST));
        }
        // A part of another.
        6 if !other.is_empty() => {
            let part = other[range(rng, other.len())].to_vec();
            let at = below(rng, len + 1);
            bytes.splice(at..at, part);
        }
        7 if !other.is_empty() => {
            bytes.truncate(below(rng, len + 1));
            bytes.extend_from_slice(&other[below(rng, other.len())..]);
        }
        // A length, of any width and order.
        _ => {
            let number = match rng.below(3) {
                0 => (len as u64).wrapping_add(rng.below(5)).wrapping_sub(2),
                _ => NUMBERS[below(rng, NUMBERS.len())],
            };
            let width = [1, 2, 4, 8][below(rng, 4)];
            let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
            let part = if rng.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
            let at = below(rng, len + 1);
            let end = len.min(at + width);
            bytes.splice(at..end, part.iter().copied());
        }
    }
}
