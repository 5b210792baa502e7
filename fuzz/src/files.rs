//! Weights, shards, images and tables.

use std::{
    fs,
    io::{Cursor, Write},
    sync::OnceLock,
};

use arrow_buffer::Buffer;
use dicom_core::{DataElement, PrimitiveValue, VR, value::PixelFragmentSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use morph_data::{
    layouts::{Root, covid19, padchest, rsna},
    readers::{self, Values},
    shard::Shard,
};
use morph_spec::dataset::{Levels, Preprocess, Slice};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A file of weights as it lies there: safetensors, torch's zip, torch's old format.
pub fn weights(data: &[u8]) {
    let Ok(tensors) = morph_checkpoint::weights::read(data, "fuzz") else { return };
    for (name, tensor) in &tensors {
        let elements: u64 = tensor.shape.iter().product();
        assert_eq!(elements * tensor.dtype.bytes() as u64, tensor.bytes.len() as u64, "{name}");
    }
    // Safetensors orders dimensions and dtypes as we do: what was read can be written, and is read again.
    let written = morph_checkpoint::weights::to_safetensors(&tensors).expect("what was read can be written");
    assert!(morph_checkpoint::weights::read(&written, "again").is_ok_and(|again| again == tensors));
}

/// The pickle in a torch file, with two small storages beside it: bytes behind the checksums of the zip.
pub fn pickle(data: &[u8]) {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", data), ("a/data/0", &[7; 64]), ("a/data/1", &[1, 0, 0, 0])] {
        let written = zip.start_file(name, stored).map_err(|e| e.to_string());
        written.and_then(|()| zip.write_all(bytes).map_err(|e| e.to_string())).expect("memory takes it");
    }
    weights(&zip.finish().expect("memory takes it").into_inner());
}

/// A shard of a dataset: the first byte says how many pixels its images must have, the rest is the Arrow file.
pub fn shard(data: &[u8]) {
    quiet();
    let Some((pixels, file)) = data.split_first() else { return };
    let pixels = usize::from(*pixels);
    // A copy lies where the allocator puts it, as a mapped file lies at a page's beginning.
    let Ok(shard) = Shard::open(&Buffer::from(file.to_vec()), pixels) else { return };
    for row in 0..shard.len() {
        assert_eq!(shard.image(row).len(), pixels);
        assert_eq!(shard.meta(row).label, shard.label(row));
    }
}

fn filled(grey: &readers::Grey) {
    assert_eq!(grey.pixels.len(), grey.width * grey.height);
    assert!(!grey.pixels.is_empty());
}

/// A PNG.
pub fn png(data: &[u8]) {
    readers::png::read(data).iter().for_each(filled);
}

/// A file of the kind, cut in whatever way the first byte says; what was read has all its values.
fn whole(kind: readers::Kind, data: &[u8]) {
    let Some((first, file)) = data.split_first() else { return };
    let slice = (first % 4 < 3).then(|| Slice { axis: u32::from(first % 4), index: (first & 4 != 0).then_some(0) });
    let Ok((image, _)) = kind.read(file, slice) else { return };
    let found = match &image.values {
        Values::Bytes(v) => v.len(),
        Values::Words(v) => v.len(),
        Values::Floats(v) => v.len(),
    };
    assert_eq!(found, image.width * image.height);
    for levels in [Levels::Bits, Levels::MinMax, Levels::Percentile] {
        readers::grey(&image, &Preprocess { levels, ..Preprocess::default() }).iter().for_each(filled);
    }
}

/// numpy's arrays.
pub fn npy(data: &[u8]) {
    whole(readers::Kind::Npy, data);
}

/// NIfTI, packed or not.
pub fn nifti(data: &[u8]) {
    whole(readers::Kind::Nifti, data);
}

/// A JPEG file.
pub fn jpeg(data: &[u8]) {
    quiet();
    whole(readers::Kind::Jpeg, data);
}

/// PadChest's label table, a zero byte, and one of its zip files: what is listed is read.
pub fn padchest(data: &[u8]) {
    static ROOT: OnceLock<TempDir> = OnceLock::new();
    let root = ROOT.get_or_init(|| tempfile::tempdir().expect("there is a place for temporary files"));
    let mut parts = data.splitn(2, |b| *b == 0);
    for name in ["labels.csv", "0.zip"] {
        fs::write(root.path().join(name), parts.next().unwrap_or_default()).expect("a small file");
    }
    let Ok(listing) = padchest::list(&Root::folder(root.path()), Some("labels.csv"), &[]) else { return };
    for item in listing.items {
        drop(item.place.read());
    }
}

/// A workbook of COVID-19 Radiography.
pub fn workbook(data: &[u8]) {
    static ROOT: OnceLock<TempDir> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = tempfile::tempdir().expect("there is a place for temporary files");
        let images = root.path().join("COVID/images");
        fs::create_dir_all(&images).expect("an empty folder takes it");
        fs::write(images.join("COVID-1.png"), b"").expect("an empty file");
        root
    });
    fs::write(root.path().join("COVID.metadata.xlsx"), data).expect("a small file");
    if let Ok(listing) = covid19::list(&Root::folder(root.path()), |_| false) {
        assert_eq!(listing.items.len(), 1);
    }
}

/// A DICOM file.
pub fn dicom(data: &[u8]) {
    quiet();
    let Ok((grey, facts)) = readers::dicom::read(data) else { return };
    filled(&grey);
    assert!(facts.age.is_none_or(|age| age <= 120));
}

/// What a DICOM file says of its pixels, in front of them in [`dicom_pixels`].
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Index into the transfer syntaxes.
    pub syntax: u8,
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Bits allocated, bits stored and high bit.
    pub bits: [u8; 3],
    /// Signed values.
    pub signed: bool,
}

/// Every coding that is read, and as they are.
const SYNTAXES: [&str; 8] = [
    uids::JPEG_BASELINE8_BIT,
    uids::JPEG_EXTENDED12_BIT,
    uids::JPEG_LOSSLESS_SV1,
    uids::RLE_LOSSLESS,
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::JPEGLS_LOSSLESS,
    uids::JPEG2000_LOSSLESS,
    uids::JPEGLS_NEAR_LOSSLESS,
];
const HEADER: usize = 9;

impl Header {
    /// The bytes that [`dicom_pixels`] reads as this.
    pub fn bytes(self) -> [u8; HEADER] {
        let ([r0, r1], [c0, c1]) = (self.rows.to_le_bytes(), self.columns.to_le_bytes());
        let [allocated, stored, high] = self.bits;
        [self.syntax, r0, r1, c0, c1, allocated, stored, high, self.signed.into()]
    }

    fn of([syntax, r0, r1, c0, c1, allocated, stored, high, signed]: [u8; HEADER]) -> Self {
        let (rows, columns) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
        Self { syntax, rows, columns, bits: [allocated, stored, high], signed: signed % 2 == 1 }
    }
}

/// The pixels of a DICOM file that is whole in all else: a [`Header`] and a fragment, so that bytes reach the decoders.
pub fn dicom_pixels(data: &[u8]) {
    let Some((header, fragment)) = data.split_first_chunk() else { return };
    let Header { syntax, rows, columns, bits: [allocated, stored, high], signed } = Header::of(*header);
    let syntax = SYNTAXES[usize::from(syntax) % SYNTAXES.len()];
    let mut object = InMemDicomObject::new_empty();
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, rows),
        (tags::COLUMNS, columns),
        (tags::BITS_ALLOCATED, allocated.into()),
        (tags::BITS_STORED, stored.into()),
        (tags::HIGH_BIT, high.into()),
        (tags::PIXEL_REPRESENTATION, signed.into()),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    for (tag, value) in [
        (tags::SOP_CLASS_UID, uids::SECONDARY_CAPTURE_IMAGE_STORAGE),
        (tags::SOP_INSTANCE_UID, "2.25.1"),
        (tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2"),
    ] {
        object.put(DataElement::new(tag, VR::CS, PrimitiveValue::from(value)));
    }
    object.put(if syntax == uids::EXPLICIT_VR_LITTLE_ENDIAN {
        DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(fragment.into()))
    } else {
        DataElement::new(tags::PIXEL_DATA, VR::OB, PixelFragmentSequence::new_fragments(vec![fragment.to_vec()]))
    });
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(syntax)
        .media_storage_sop_class_uid(uids::SECONDARY_CAPTURE_IMAGE_STORAGE)
        .media_storage_sop_instance_uid("2.25.1");
    let mut file = Vec::new();
    object.with_meta(meta).expect("the header is whole").write_all(&mut file).expect("memory takes it");
    dicom(&file);
}

/// Panics of decoders of others' making are caught by the reader; libFuzzer would take their messages for crashes.
fn quiet() {
    #[cfg(fuzzing)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    }
}

/// The tables of a raw dataset in RSNA's layout: labels, classes and the patient map, with a zero byte between.
pub fn tables(data: &[u8]) {
    static ROOT: OnceLock<TempDir> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let root = tempfile::tempdir().expect("there is a place for temporary files");
        let images = root.path().join("stage_2_train_images");
        fs::create_dir(&images).expect("an empty folder takes it");
        ["a", "b"].iter().for_each(|id| fs::write(images.join(format!("{id}.dcm")), b"").expect("an empty file"));
        root
    });
    let names = ["stage_2_train_labels.csv", "stage_2_detailed_class_info.csv", "persons.csv"];
    let mut parts = data.splitn(names.len(), |b| *b == 0);
    for name in names {
        fs::write(root.path().join(name), parts.next().unwrap_or_default()).expect("a small file");
    }
    for map in [None, root.path().join(names[2]).to_str()] {
        let Ok(listing) = rsna::list(&Root::folder(root.path()), map) else { continue };
        for item in &listing.items {
            assert!(["a", "b"].contains(&&*item.id), "only what is there can be used");
            let sound = |[x, y, w, h]: &[f32; 4]| [x, y, w, h].iter().all(|v| v.is_finite()) && *w > 0.0 && *h > 0.0;
            assert!(item.boxes.iter().all(sound), "{:?}", item.boxes);
        }
    }
}
