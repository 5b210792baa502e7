//! numpy's `.npy`, versions 1 to 3: arrays of numbers in two dimensions, or a plane of three.

use morph_spec::dataset::Slice;

use super::{Image, Values, volume};

const MAGIC: &[u8] = b"\x93NUMPY";
/// numpy itself refuses longer ones.
const LONGEST_HEADER: usize = 10_000;

/// Decodes the file. Integers of up to 16 bits are taken by their full range; all other numbers are floats.
///
/// # Errors
/// A text that says what is wrong with the file.
pub fn image(bytes: &[u8], slice: Option<Slice>) -> Result<Image, String> {
    let bad = |why: &str| format!("no readable npy: {why}");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("it does not begin as one"))?;
    let (length, rest) = match rest {
        [1, _, low, high, rest @ ..] => (usize::from(u16::from_le_bytes([*low, *high])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err(bad("its version is not known")),
    };
    if length > LONGEST_HEADER || length > rest.len() {
        return Err(bad(&format!("its header claims {length} bytes")));
    }
    let (header, data) = rest.split_at(length);
    let header = std::str::from_utf8(header).map_err(|_| bad("its header is no text"))?;
    let header = Header::parse(header).ok_or_else(|| bad("its header makes no sense"))?;
    let element =
        Element::of(&header.descr).ok_or_else(|| bad(&format!("values of type {:?} are not read", header.descr)))?;
    let mut shape = header.shape;
    if header.fortran {
        shape.reverse();
    }
    let dims = shape.len();
    let axis = |a: u32| if header.fortran { dims.wrapping_sub(1).wrapping_sub(a as usize) } else { a as usize };
    let mut plane = volume::plane(&shape, slice, axis)?;
    if header.fortran {
        // Rows are what numpy calls rows: the first dimension that is left.
        (plane.rows, plane.columns) = (plane.columns, plane.rows);
        (plane.down, plane.across) = (plane.across, plane.down);
    }
    element.image(data, plane, (1.0, 0.0))
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

impl Header {
    /// A Python dictionary with these three keys.
    fn parse(text: &str) -> Option<Self> {
        let after = |key: &str| {
            let at = text.find(&format!("'{key}'"))?;
            text[at + key.len() + 2..].trim_start().strip_prefix(':').map(str::trim_start)
        };
        let descr = after("descr")?.strip_prefix('\'')?.split('\'').next()?.to_owned();
        let fortran = match after("fortran_order")? {
            t if t.starts_with("True") => true,
            t if t.starts_with("False") => false,
            _ => return None,
        };
        let inner = after("shape")?.strip_prefix('(')?.split(')').next()?;
        let shape: Option<Vec<u64>> =
            inner.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect();
        Some(Self { descr, fortran, shape: shape.filter(|s| s.len() <= 8)? })
    }
}

/// How a number lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    kind: Kind,
    size: usize,
    big: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unsigned,
    Signed,
    Float,
}

impl Element {
    /// numpy's name of a type: `<u2`.
    fn of(descr: &str) -> Option<Self> {
        let (order, name) = descr.split_at_checked(1)?;
        let big = match order {
            "<" | "|" => false,
            ">" => true,
            _ => return None,
        };
        let (kind, size) = match name {
            "b1" | "u1" => (Kind::Unsigned, 1),
            "u2" => (Kind::Unsigned, 2),
            "u4" => (Kind::Unsigned, 4),
            "u8" => (Kind::Unsigned, 8),
            "i1" => (Kind::Signed, 1),
            "i2" => (Kind::Signed, 2),
            "i4" => (Kind::Signed, 4),
            "i8" => (Kind::Signed, 8),
            "f4" => (Kind::Float, 4),
            "f8" => (Kind::Float, 8),
            _ => return None,
        };
        Some(Self { kind, size, big })
    }

    /// NIfTI's number of a type.
    pub(super) fn of_nifti(datatype: i16, big: bool) -> Option<Self> {
        let (kind, size) = match datatype {
            2 => (Kind::Unsigned, 1),
            512 => (Kind::Unsigned, 2),
            768 => (Kind::Unsigned, 4),
            256 => (Kind::Signed, 1),
            4 => (Kind::Signed, 2),
            8 => (Kind::Signed, 4),
            16 => (Kind::Float, 4),
            64 => (Kind::Float, 8),
            _ => return None,
        };
        Some(Self { kind, size, big })
    }

    pub(super) fn size(self) -> usize {
        self.size
    }

    /// The image that lies as `plane` says in `data`.
    pub(super) fn image(self, data: &[u8], plane: volume::Plane, rescale: (f64, f64)) -> Result<Image, String> {
        let n = plane.rows * plane.columns;
        // The plane's last value is the farthest: if it is there, all are, and memory may be taken for them.
        let last = [(plane.rows - 1, plane.down), (plane.columns - 1, plane.across)]
            .iter()
            .try_fold(plane.start, |at, (i, stride)| at.checked_add(i.checked_mul(*stride)?));
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(self.size));
        if end.is_none_or(|end| end > data.len()) {
            return Err(format!(
                "{} bytes hold no {}x{} pixels: the file is cut off",
                data.len(),
                plane.rows,
                plane.columns
            ));
        }
        let elements = plane.positions().map_while(|at| data.get(at? * self.size..)?.get(..self.size));
        let bits = 8 * self.size as u32;
        let values = match (self.kind, self.size) {
            (Kind::Unsigned, 1) => Values::Bytes(elements.map(|e| e[0]).collect()),
            (Kind::Signed, 1) => Values::Bytes(elements.map(|e| e[0] ^ 0x80).collect()),
            (Kind::Unsigned, 2) => Values::Words(elements.map(|e| self.integer(e) as u16).collect()),
            (Kind::Signed, 2) => Values::Words(elements.map(|e| self.integer(e) as u16 ^ 0x8000).collect()),
            _ => {
                let floats: Vec<f32> = elements.map(|e| self.float(e)).collect();
                if floats.iter().any(|v| !v.is_finite()) {
                    return Err("it holds values that are no numbers".to_owned());
                }
                Values::Floats(floats)
            }
        };
        let found = match &values {
            Values::Bytes(v) => v.len(),
            Values::Words(v) => v.len(),
            Values::Floats(v) => v.len(),
        };
        if found != n {
            return Err(format!("it has {found} values in place of {n}"));
        }
        let signed = self.kind == Kind::Signed && self.size <= 2;
        Ok(Image { signed, rescale, ..Image::plain(plane.columns, plane.rows, values, bits.min(16)) })
    }

    /// The bits of an element.
    fn integer(self, bytes: &[u8]) -> u64 {
        let fold = |n: u64, b: &u8| n << 8 | u64::from(*b);
        if self.big { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
    }

    fn float(self, bytes: &[u8]) -> f32 {
        let bits = self.integer(bytes);
        match (self.kind, self.size) {
            (Kind::Float, 4) => f32::from_bits(bits as u32),
            (Kind::Float, _) => f64::from_bits(bits) as f32,
            (Kind::Signed, 4) => bits as u32 as i32 as f32,
            (Kind::Signed, _) => bits as i64 as f32,
            (Kind::Unsigned, _) => bits as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{header}\n");
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn words(data: &[u16]) -> Vec<u8> {
        data.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn arrays_as_numpy_writes_them() {
        let two = file("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }", &words(&[1, 2, 3, 4, 5, 6]));
        let image = image(&two, None).unwrap();
        assert_eq!((image.width, image.height, image.bits), (3, 2, 16));
        assert_eq!(image.values, Values::Words(vec![1, 2, 3, 4, 5, 6]));
        // The same array, column by column.
        let turned = file("{'descr': '<u2', 'fortran_order': True, 'shape': (2, 3), }", &words(&[1, 4, 2, 5, 3, 6]));
        assert_eq!(super::image(&turned, None).unwrap(), image);
        let signed = file("{'descr': '>i2', 'fortran_order': False, 'shape': (1, 2), }", &[0xff, 0xff, 0, 1]);
        let signed = super::image(&signed, None).unwrap();
        assert_eq!((signed.values, signed.signed), (Values::Words(vec![0x7fff, 0x8001]), true));
        let doubles = [0.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let doubles = file("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }", &doubles);
        assert_eq!(super::image(&doubles, None).unwrap().values, Values::Floats(vec![0.5, -2.0]));
    }

    #[test]
    fn planes_are_numpys() {
        // numpy: np.arange(12, dtype='<u2').reshape(2, 3, 2)[:, :, 1] is [[1, 3, 5], [7, 9, 11]].
        let data: Vec<u16> = (0..12).collect();
        let c = file("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3, 2), }", &words(&data));
        let slice = Some(Slice { axis: 2, index: Some(1) });
        let plane = image(&c, slice).unwrap();
        assert_eq!((plane.height, plane.width), (2, 3));
        assert_eq!(plane.values, Values::Words(vec![1, 3, 5, 7, 9, 11]));
        let order = [0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11];
        let f = file("{'descr': '<u2', 'fortran_order': True, 'shape': (2, 3, 2), }", &words(&order));
        assert_eq!(image(&f, slice).unwrap(), plane);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let says = |bytes: &[u8], why: &str| {
            let said = image(bytes, None).unwrap_err();
            assert!(said.contains(why), "it should say {why:?}: {said}");
        };
        says(b"PK", "does not begin");
        says(&file("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }", &[0; 6]), "\"|O\" are not read");
        says(&file("{'descr': '<u2', 'shape': (2, 3), }", &[0; 12]), "makes no sense");
        says(&file("{'descr': '<u2', 'fortran_order': False, 'shape': (9000, 9000), }", &[0; 12]), "cut off");
        says(&file("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }", &[0; 11]), "cut off");
        says(&[MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat(), "claims 4294967295 bytes");
        says(
            &file("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }", &f32::NAN.to_le_bytes()),
            "no numbers",
        );
    }
}
