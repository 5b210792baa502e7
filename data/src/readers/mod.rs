//! Raw image files in, grey levels out. No reader hands on anything that names a patient but the id that its layout needs.

pub mod dicom;
mod elements;
mod fragments;
pub mod png;

/// A decoded image: 8-bit grey levels, bright is dense (MONOCHROME2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grey {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major pixels.
    pub pixels: Vec<u8>,
}

/// Images with more pixels are no images: the largest detectors have a fifth of them.
pub(crate) const MOST_PIXELS: u64 = 100_000_000;

/// What a reader learnt of an image besides its pixels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The id in the file, where it has one.
    pub id: Option<String>,
    /// `AP`, `PA`, ….
    pub view: Option<String>,
    /// `M` or `F`.
    pub sex: Option<String>,
    /// Years; impossible ages are none.
    pub age: Option<u32>,
}

/// Values of `bits` bits as 8-bit grey levels, rounded; 8-bit values stay as they are.
pub(crate) fn to_8_bit(value: u32, bits: u32) -> u8 {
    let top = (1u64 << bits.clamp(1, 32)) - 1;
    ((u64::from(value).min(top) * 255 + top / 2) / top) as u8
}

#[cfg(test)]
mod tests {
    use super::to_8_bit;

    #[test]
    fn scaling_keeps_the_ends_and_8_bit_values() {
        for v in 0..=255 {
            assert_eq!(u32::from(to_8_bit(v, 8)), v);
        }
        assert_eq!((to_8_bit(0, 12), to_8_bit(4095, 12), to_8_bit(2048, 12)), (0, 255, 128));
        assert_eq!(to_8_bit(9999, 12), 255, "values beyond the stored bits are white");
        assert_eq!(to_8_bit(65535, 16), 255);
    }
}
