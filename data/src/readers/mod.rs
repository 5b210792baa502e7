//! Raw image files in, values out. No reader hands on anything that names a patient but the id that its layout needs.
//!
//! Contract: what a reader takes of memory is in proportion to the file, whatever the file claims, and a file that is cut off is
//! an error, never half an image: grey bands would be scored as anomalies.

mod codecs;
pub mod dicom;
mod elements;
mod fragments;
pub mod jpeg;
mod lookup;
pub mod nifti;
pub mod npy;
pub mod png;
mod volume;

use std::panic::{UnwindSafe, catch_unwind};

use morph_spec::dataset::Slice;

pub use self::lookup::{Function, Lut, Voi};
pub use crate::tone::grey;

/// An 8-bit image: bright is dense (MONOCHROME2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grey {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major pixels.
    pub pixels: Vec<u8>,
}

/// A decoded image, with the values that its file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major values.
    pub values: Values,
    /// Of integers: how many bits of them are used. Signed values are kept as unsigned, so that the lowest is 0.
    pub bits: u32,
    /// Of integers: whether they are signed.
    pub signed: bool,
    /// Modality rescale: slope and intercept.
    pub rescale: (f64, f64),
    /// How the file wants to be seen, if it says so; an error when it says it in a way that is not known.
    pub voi: Result<Option<Voi>, String>,
    /// Of integers: values, as they are kept, that stand for no image (Pixel Padding Value), the lowest and the highest.
    pub padding: Option<(u16, u16)>,
    /// Low values are bright (MONOCHROME1).
    pub inverted: bool,
    /// What people should know of how the file was taken.
    pub remarks: Vec<&'static str>,
}

/// The values of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Up to 8 bits.
    Bytes(Vec<u8>),
    /// Up to 16 bits.
    Words(Vec<u16>),
    /// Anything else; finite.
    Floats(Vec<f32>),
}

impl Image {
    /// Unsigned values of `bits` bits.
    pub(crate) fn plain(width: usize, height: usize, values: Values, bits: u32) -> Self {
        Self {
            width,
            height,
            values,
            bits,
            signed: false,
            rescale: (1.0, 0.0),
            voi: Ok(None),
            padding: None,
            inverted: false,
            remarks: Vec::new(),
        }
    }

    /// What has to be added to a kept integer to get the stored one.
    pub fn offset(&self) -> i64 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }
}

/// Images with more pixels are no images: the largest detectors have a fifth of them.
pub(crate) const MOST_PIXELS: u64 = 100_000_000;

/// No file is read beyond it.
pub(crate) const LARGEST_FILE: u64 = 1 << 30;

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
    /// The file says that text is burnt into its pixels.
    pub burned_in: bool,
}

/// Older than anybody got: such ages are typing errors (RSNA has five of 148 to 155).
pub(crate) const OLDEST: u32 = 120;

/// Kinds of files, by the ends of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `.png`
    Png,
    /// `.jpg`, `.jpeg`
    Jpeg,
    /// `.npy`
    Npy,
    /// `.nii`, `.nii.gz`
    Nifti,
    /// `.dcm`, `.dicom`
    Dicom,
}

impl Kind {
    /// The kind of the file with this name, and the name without its end.
    pub fn of(name: &str) -> Option<(Self, &str)> {
        const ENDS: [(&str, Kind); 8] = [
            (".png", Kind::Png),
            (".jpg", Kind::Jpeg),
            (".jpeg", Kind::Jpeg),
            (".npy", Kind::Npy),
            (".nii", Kind::Nifti),
            (".nii.gz", Kind::Nifti),
            (".dcm", Kind::Dicom),
            (".dicom", Kind::Dicom),
        ];
        ENDS.iter().find_map(|(end, kind)| {
            let at = name.len().checked_sub(end.len()).filter(|at| *at > 0)?;
            let (stem, found) = (name.get(..at)?, name.get(at..)?);
            found.eq_ignore_ascii_case(end).then_some((*kind, stem))
        })
    }

    /// How many pixels will come out of `bytes`, about: for those who share memory. What the file claims is not believed.
    pub(crate) fn pixels(self, bytes: &[u8]) -> u64 {
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u64::from(u32::from_be_bytes(*b)));
        let claimed = match self {
            // Width and height are the first thing in the first chunk.
            Self::Png => word(16).zip(word(20)).map(|(w, h)| w.saturating_mul(h)),
            Self::Jpeg => fragments::frame(bytes).map(|f| u64::from(f.rows) * u64::from(f.columns)),
            Self::Dicom => dicom::size(bytes),
            Self::Npy => Some(bytes.len() as u64),
            Self::Nifti => Some(nifti::size(bytes)),
        };
        claimed.unwrap_or(MOST_PIXELS).min(MOST_PIXELS)
    }

    /// Decodes `bytes` as a file of this kind; `slice` says which plane of a volume.
    ///
    /// # Errors
    /// A text that says what is wrong with the file.
    pub fn read(self, bytes: &[u8], slice: Option<Slice>) -> Result<(Image, Facts), String> {
        guarded(|| {
            let image = match self {
                Self::Dicom => return dicom::decode(bytes),
                Self::Png => png::image(bytes),
                Self::Jpeg => jpeg::image(bytes),
                Self::Npy => npy::image(bytes, slice),
                Self::Nifti => nifti::image(bytes, slice),
            };
            Ok((image?, Facts::default()))
        })
    }
}

/// What `decode` says. Decoders of others' making meet files of others' making: a crash costs one file, not the whole job.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String> + UnwindSafe) -> Result<T, String> {
    catch_unwind(decode).unwrap_or_else(|_| Err("its decoder crashed".to_owned()))
}

/// ITU-R 601-2 in 16-bit fixed point, as Pillow's `convert("L")` has it.
fn luma(p: &[u8]) -> u8 {
    let [r, g, b] = [p[0], p[1], p[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::{Kind, guarded};

    #[test]
    fn files_are_known_by_their_ends() {
        assert_eq!(Kind::of("a.b.PNG"), Some((Kind::Png, "a.b")));
        assert_eq!(Kind::of("scan.nii.gz"), Some((Kind::Nifti, "scan")));
        assert_eq!(Kind::of("x.jpeg"), Some((Kind::Jpeg, "x")));
        for other in ["png", ".png", "a.txt", "ß", "a.nii.gz.part"] {
            assert_eq!(Kind::of(other), None, "{other}");
        }
    }

    #[test]
    fn a_decoder_that_crashes_costs_one_file() {
        let crash = |bytes: &[u8]| guarded(|| Ok::<_, String>(bytes[7]));
        assert_eq!(crash(&[0; 8]), Ok(0));
        assert_eq!(crash(b""), Err("its decoder crashed".to_owned()));
        assert_eq!(guarded(|| Err::<(), _>("cut off".to_owned())), Err("cut off".to_owned()));
    }
}
