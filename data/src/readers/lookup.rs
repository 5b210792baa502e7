//! How a DICOM file wants its values to be changed or seen: lookup tables (PS3.3 C.11.1, C.11.2), windows and their functions.

use dicom_core::{PrimitiveValue, Tag, value::Value};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

/// A lookup table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lut {
    /// The value that the first entry is for.
    pub first: i64,
    /// Never empty.
    pub entries: Vec<u16>,
    /// Bits of an entry.
    pub bits: u32,
}

/// What maps a window to grey levels (VOI LUT Function).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// With half a value beside the window, as DICOM has it where nothing is said.
    Linear,
    /// The window as it is.
    LinearExact,
    /// A curve through the middle of the window.
    Sigmoid,
}

/// How a file wants its values to be seen, after the modality rescale.
#[derive(Debug, Clone, PartialEq)]
pub enum Voi {
    /// Centre, width, and what is done with them.
    Window(f64, f64, Function),
    /// VOI LUT Sequence.
    Table(Lut),
}

impl Lut {
    /// The entry for `value`; beside the table the one at its end.
    pub fn at(&self, value: f64) -> u16 {
        let last = self.entries.len() - 1;
        // A fraction belongs to the entry below; what is no number to the first.
        self.entries[((value - self.first as f64) as usize).min(last)]
    }

    /// The first table of the sequence `tag`, if there is one with a table in it. `signed`: pixels are, and so is the first value then.
    pub(super) fn of(object: &InMemDicomObject, tag: Tag, signed: bool) -> Result<Option<Self>, String> {
        let Ok(sequence) = object.element(tag) else { return Ok(None) };
        let Some(item) = sequence.items().and_then(<[_]>::first) else { return Ok(None) };
        let parts = item.element(tags::LUT_DESCRIPTOR).ok().zip(item.element(tags::LUT_DATA).ok());
        let Some((descriptor, data)) = parts else { return Ok(None) };
        let bad = |why: &str| format!("its lookup table {tag} {why}");
        let numbers = descriptor.to_multi_int::<i32>().map_err(|_| bad("does not say what it is for"))?;
        let [length, first, bits] = numbers[..] else { return Err(bad("does not say what it is for")) };
        if !(8..=16).contains(&bits) {
            return Err(bad(&format!("has entries of {bits} bits: such are not read")));
        }
        // Of 16 bits without a sign, whatever the other two are; 0 is 65,536.
        let length = match length as u16 {
            0 => 1 << 16,
            n => usize::from(n),
        };
        // Where types are implied, this reader does not know that it has one.
        let first = if signed { i64::from(first as u16 as i16) } else { i64::from(first) };
        let mut entries = match data.value() {
            Value::Primitive(PrimitiveValue::U16(words)) => words.to_vec(),
            Value::Primitive(value) => value.to_bytes().as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect(),
            _ => return Err(bad("has no entries")),
        };
        if bits == 8 && entries.len() < length && entries.len() * 2 >= length {
            // Two to a word.
            entries = entries.iter().flat_map(|word| word.to_le_bytes().map(u16::from)).collect();
        }
        if entries.len() < length {
            return Err(bad(&format!("has {} entries of {length}", entries.len())));
        }
        entries.truncate(length);
        Ok(Some(Self { first, entries, bits: bits as u32 }))
    }
}

impl Voi {
    /// What the file asks for; as pydicom takes it, a table before a window, and the first of several.
    pub(super) fn of(
        object: &InMemDicomObject,
        window: Option<(f64, f64)>,
        signed: bool,
    ) -> Result<Option<Self>, String> {
        if let Some(table) = Lut::of(object, tags::VOILUT_SEQUENCE, signed)? {
            return Ok(Some(Self::Table(table)));
        }
        let Some((center, width)) = window else { return Ok(None) };
        let name = super::dicom::text(object, tags::VOILUT_FUNCTION).unwrap_or_default();
        let function = match &*name.to_ascii_uppercase() {
            "" | "LINEAR" => Function::Linear,
            "LINEAR_EXACT" => Function::LinearExact,
            "SIGMOID" => Function::Sigmoid,
            _ => return Err(format!("its VOILUTFunction {name:?} is not known")),
        };
        // Some write zeros where they know of no window.
        let least = if function == Function::Linear { 1.0 } else { f64::MIN_POSITIVE };
        let sound = center.is_finite() && width.is_finite() && width >= least;
        Ok(sound.then_some(Self::Window(center, width, function)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_ends_where_it_ends() {
        let table = Lut { first: -2, entries: vec![7, 8, 9], bits: 8 };
        let found = [-99.0, -2.0, -1.5, -1.0, 0.0, 1.0, 1e9, f64::NAN].map(|value| table.at(value));
        assert_eq!(found, [7, 7, 7, 8, 9, 9, 9, 7]);
    }
}
