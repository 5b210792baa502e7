//! The elements of a DICOM file, within bounds that its size sets. The library takes memory for whatever length an element
//! claims, before it looks whether the file goes on so far, and calls itself for each sequence in a sequence.

use std::{
    borrow::Cow,
    io::{self, Cursor, Read, Seek},
};

use dicom_core::{
    PrimitiveValue, VR,
    header::{DataElementHeader, HasLength, Header, Length, SequenceItemHeader},
};
use dicom_dictionary_std::uids;
use dicom_object::{DefaultDicomObject, FileMetaTable, InMemDicomObject};
use dicom_parser::stateful::decode::{DynStatefulDecoder, Error, Result as Decoded, StatefulDecode};
use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};
use flate2::read::DeflateDecoder;

/// Sequences in sequences: structured reports have a dozen, images two or three.
const DEEPEST: usize = 32;
/// Before the file begins for who does not know DICOM.
const PREAMBLE: usize = 128;
const MAGIC: &[u8] = b"DICM";
/// No byte makes more of them (deflate).
const DENSEST: u64 = 1032;
/// Files are not unpacked beyond it.
const LARGEST_INFLATED: u64 = 256 << 20;

/// Reads the file.
///
/// # Errors
/// A text that says what is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<DefaultDicomObject, String> {
    let bad = |e: &(dyn std::error::Error + 'static)| format!("no readable DICOM: {}", super::dicom::root(e));
    let start = if bytes.get(PREAMBLE..PREAMBLE + MAGIC.len()) == Some(MAGIC) { PREAMBLE } else { 0 };
    group_of_the_file(&bytes[start..]).map_err(|why| format!("no readable DICOM: {why}"))?;
    let mut rest = Cursor::new(&bytes[start..]);
    let meta = FileMetaTable::from_reader(&mut rest).map_err(|e| bad(&e))?;
    let uid = meta.transfer_syntax();
    let mut syntax =
        TransferSyntaxRegistry.get(uid).ok_or_else(|| format!("its transfer syntax {uid} is not known"))?;
    let mut at = rest.position();
    let mut data = Cow::Borrowed(bytes.get(start + at as usize..).unwrap_or_default());
    if uid == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        // Everything after the first group is packed (PS3.5 A.5).
        data = Cow::Owned(inflate(&data)?);
        let plain = TransferSyntaxRegistry.get(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        (syntax, at) = (plain.ok_or("no decoder for what was deflated")?, 0);
    } else if !syntax.is_codec_free() && !syntax.is_encapsulated_pixel_data() {
        return Err(format!("its transfer syntax {} is not read", syntax.name()));
    }
    let decoder = DynStatefulDecoder::new_with_ts(&*data, syntax, at).map_err(|e| bad(&e))?;
    let mut within = Within { decoder, end: at + data.len() as u64, open: Vec::new(), broken: None };
    let object = InMemDicomObject::read_dataset(&mut within);
    match (object, within.broken) {
        (_, Some(why)) => Err(format!("no readable DICOM: {why}")),
        (Ok(object), None) => Ok(object.with_exact_meta(meta)),
        (Err(e), None) => Err(bad(&e)),
    }
}

/// The name of a transfer syntax, for people.
pub(super) fn name(uid: &str) -> String {
    TransferSyntaxRegistry.get(uid).map_or_else(|| uid.to_owned(), |syntax| syntax.name().to_owned())
}

/// Bytes that come out of a deflated file; none where it is no such file. It is unpacked for that: nothing in it can be believed.
pub(super) fn unpacked(bytes: &[u8]) -> Option<u64> {
    let uid = uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.as_bytes();
    // In the first group, which has little else in it.
    let at = bytes.get(..bytes.len().min(1024))?.windows(uid.len()).position(|window| window == uid)?;
    let start = bytes[..at].windows(MAGIC.len()).position(|window| window == MAGIC)?;
    group_of_the_file(&bytes[start..]).ok()?;
    let mut rest = Cursor::new(&bytes[start..]);
    FileMetaTable::from_reader(&mut rest).ok()?;
    let packed = bytes.get(start + rest.position() as usize..)?;
    let (mut plain, mut chunk, mut found) = (DeflateDecoder::new(packed).take(most(packed)), [0; 1 << 14], 0);
    // What is wrong with it is said when it is read.
    while let Some(n) = plain.read(&mut chunk).ok().filter(|n| *n > 0) {
        found += n as u64;
    }
    Some(found)
}

/// What comes out of `packed` at most.
fn most(packed: &[u8]) -> u64 {
    LARGEST_INFLATED.min((packed.len() as u64).saturating_mul(DENSEST))
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>, String> {
    let most = most(packed);
    let mut plain = Vec::new();
    let read = DeflateDecoder::new(packed).take(most + 1).read_to_end(&mut plain);
    read.map_err(|e| format!("no readable DICOM: {e}"))?;
    if plain.len() as u64 > most {
        return Err(format!("it unpacks to more than {most} bytes: such files are not read"));
    }
    Ok(plain)
}

fn beyond(len: u32, left: u64) -> String {
    format!("an element claims {len} bytes, {left} are left: the file is cut off")
}

/// Refuses a file whose first group, which the library reads in another way than the rest, claims more than there is.
fn group_of_the_file(bytes: &[u8]) -> Result<(), String> {
    let Some(group) = bytes.strip_prefix(MAGIC) else { return Err("it does not begin as one".to_owned()) };
    // This group is always explicit, whatever the rest is.
    let syntax = TransferSyntaxRegistry.get(uids::EXPLICIT_VR_LITTLE_ENDIAN).ok_or("no decoder for its first group")?;
    let mut elements = DynStatefulDecoder::new_with_ts(group, syntax, 0).map_err(|e| e.to_string())?;
    let mut end = None;
    while end.is_none_or(|end| elements.position() < end) {
        // What is no element is the library's to complain about.
        let Ok(header) = elements.decode_header() else { return Ok(()) };
        let left = (group.len() as u64).saturating_sub(elements.position());
        let len = header.length().0;
        if u64::from(len) > left {
            return Err(beyond(len, left));
        }
        let from = elements.position() as usize;
        if end.is_none() {
            // The first says how long the group is.
            let length = group.get(from..).and_then(|value| value.first_chunk()).map_or(0, |l| u32::from_le_bytes(*l));
            end = Some(from as u64 + 4 + u64::from(length));
        }
        if elements.skip_bytes(len).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A decoder that is held to the file's size.
struct Within<D> {
    decoder: D,
    /// Bytes there are.
    end: u64,
    /// Where the open items end; `None`: where a delimiter says so.
    open: Vec<Option<u64>>,
    /// What the file claims that cannot be.
    broken: Option<String>,
}

impl<D: StatefulDecode> Within<D> {
    /// Whether `length` bytes from here are there.
    fn holds(&mut self, length: Length) -> Decoded<()> {
        let left = self.end.saturating_sub(self.decoder.position());
        match length.get() {
            Some(len) if u64::from(len) > left => {
                self.broken = Some(beyond(len, left));
                Err(Error::AllocateValueData { len })
            }
            _ => Ok(()),
        }
    }

    /// Items end where they said they would.
    fn close(&mut self) {
        let at = self.decoder.position();
        while self.open.last().is_some_and(|end| end.is_some_and(|end| end <= at)) {
            self.open.pop();
        }
    }

    fn item(&mut self, len: Length) -> Decoded<()> {
        self.holds(len)?;
        self.open.push(len.get().map(|len| self.decoder.position() + u64::from(len)));
        if self.open.len() > DEEPEST {
            self.broken = Some(format!("more than {DEEPEST} sequences lie in each other"));
            return Err(Error::AllocateValueData { len: 0 });
        }
        Ok(())
    }
}

impl<D: StatefulDecode> StatefulDecode for Within<D> {
    type Reader = D::Reader;

    fn decode_header(&mut self) -> Decoded<DataElementHeader> {
        self.close();
        let header = self.decoder.decode_header()?;
        if header.is_item_delimiter() {
            self.open.pop();
        } else if header.vr() != VR::SQ {
            self.holds(header.length())?;
        }
        Ok(header)
    }

    fn decode_item_header(&mut self) -> Decoded<SequenceItemHeader> {
        self.close();
        let header = self.decoder.decode_item_header()?;
        match header {
            SequenceItemHeader::Item { len } => self.item(len)?,
            SequenceItemHeader::ItemDelimiter => drop(self.open.pop()),
            SequenceItemHeader::SequenceDelimiter => {}
        }
        Ok(header)
    }

    fn read_value(&mut self, header: &DataElementHeader) -> Decoded<PrimitiveValue> {
        self.holds(header.length())?;
        self.decoder.read_value(header)
    }

    fn read_value_preserved(&mut self, header: &DataElementHeader) -> Decoded<PrimitiveValue> {
        self.holds(header.length())?;
        self.decoder.read_value_preserved(header)
    }

    fn read_value_bytes(&mut self, header: &DataElementHeader) -> Decoded<PrimitiveValue> {
        self.holds(header.length())?;
        self.decoder.read_value_bytes(header)
    }

    fn read_to_vec(&mut self, length: u32, to: &mut Vec<u8>) -> Decoded<()> {
        self.holds(Length(length))?;
        self.decoder.read_to_vec(length, to)
    }

    fn read_u32_to_vec(&mut self, length: u32, to: &mut Vec<u32>) -> Decoded<()> {
        self.holds(Length(length))?;
        self.decoder.read_u32_to_vec(length, to)
    }

    fn read_to<W: io::Write>(&mut self, length: u32, to: W) -> Decoded<()> {
        self.decoder.read_to(length, to)
    }

    fn skip_bytes(&mut self, length: u32) -> Decoded<()> {
        self.decoder.skip_bytes(length)
    }

    fn seek(&mut self, position: u64) -> Decoded<()>
    where
        Self::Reader: Seek,
    {
        self.decoder.seek(position)
    }

    fn position(&self) -> u64 {
        self.decoder.position()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use dicom_object::FileMetaTableBuilder;

    use super::*;

    #[test]
    fn what_a_deflated_file_takes_is_counted() {
        let file = |uid: &str, data: &[u8]| {
            let meta = FileMetaTableBuilder::new().transfer_syntax(uid);
            let meta = meta.media_storage_sop_class_uid("2.25.2").media_storage_sop_instance_uid("2.25.1").build();
            let mut bytes = [&[0; PREAMBLE][..], MAGIC].concat();
            meta.unwrap().write(&mut bytes).unwrap();
            [&bytes, data].concat()
        };
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&vec![7; 50_000_000]).unwrap();
        let packed = packed.finish().unwrap();
        let deflated = file(uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, &packed);
        assert!(deflated.len() < 100_000, "{} bytes", deflated.len());
        assert_eq!(unpacked(&deflated), Some(50_000_000));
        assert!(unpacked(&deflated[..deflated.len() / 2]).is_some_and(|n| (20_000_000..30_000_000).contains(&n)));
        assert_eq!(unpacked(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, &packed)), None);
        assert_eq!(unpacked(b""), None);
    }
}
