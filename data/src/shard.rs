//! A shard: one Arrow IPC file, one record batch, one row a sample. Opens in pyarrow, polars and Hugging Face datasets.

use std::{collections::HashMap, panic::catch_unwind, sync::Arc};

use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, ListArray, RecordBatch, StringArray,
    UInt8Array, UInt32Array,
    cast::AsArray,
    types::{Float32Type, UInt8Type, UInt32Type},
};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_ipc::{
    convert::try_fb_to_schema,
    reader::{FileDecoder, read_footer_length},
    root_as_footer,
    writer::FileWriter,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use morph_spec::Digest;

use crate::Meta;

/// Bytes of the footer's end: its length and the magic word.
const TRAILER: usize = 10;

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, false))
}

/// The columns, for images of `height` × `width` pixels.
fn schema(height: u32, width: u32) -> SchemaRef {
    let pixels = i32::try_from(u64::from(height) * u64::from(width)).unwrap_or(i32::MAX);
    let tensor = HashMap::from([
        ("ARROW:extension:name".to_owned(), "arrow.fixed_shape_tensor".to_owned()),
        ("ARROW:extension:metadata".to_owned(), format!("{{\"shape\":[{height},{width}]}}")),
    ]);
    let image =
        Field::new("image", DataType::FixedSizeList(item(DataType::UInt8), pixels), false).with_metadata(tensor);
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        image,
        text("id", false),
        text("patient", false),
        text("label", false),
        text("view", true),
        text("sex", true),
        Field::new("age", DataType::UInt32, true),
        Field::new("boxes", DataType::List(item(DataType::FixedSizeList(item(DataType::Float32), 4))), false),
        text("source", false),
        Field::new("digest", DataType::FixedSizeBinary(32), false),
    ]))
}

/// Collects samples into one shard.
#[derive(Debug)]
pub struct Writer {
    height: u32,
    width: u32,
    pixels: Vec<u8>,
    metas: Vec<Meta>,
}

impl Writer {
    /// For images of `height` × `width` pixels.
    pub fn new(height: u32, width: u32) -> Self {
        Self { height, width, pixels: Vec::new(), metas: Vec::new() }
    }

    /// Appends a sample.
    ///
    /// # Panics
    /// When `image` has another size.
    pub fn push(&mut self, image: &[u8], meta: Meta) {
        assert_eq!(image.len(), self.height as usize * self.width as usize, "invariant: prepared images have one size");
        self.pixels.extend_from_slice(image);
        self.metas.push(meta);
    }

    /// Samples so far.
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// Samples per label.
    pub fn labels(&self) -> std::collections::BTreeMap<String, u64> {
        let mut labels = std::collections::BTreeMap::new();
        for meta in &self.metas {
            *labels.entry(meta.label.clone()).or_default() += 1;
        }
        labels
    }

    /// The file. The same samples give the same bytes.
    ///
    /// # Errors
    /// When Arrow refuses: sizes beyond its limits.
    pub fn finish(self) -> Result<Vec<u8>, ArrowError> {
        let schema = schema(self.height, self.width);
        let pixels = i32::try_from(self.height as usize * self.width as usize)
            .map_err(|_| ArrowError::InvalidArgumentError("an image is too large".into()))?;
        let metas = &self.metas;
        let text =
            |get: fn(&Meta) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(metas.iter().map(get))) };
        let maybe =
            |get: fn(&Meta) -> Option<&str>| -> ArrayRef { Arc::new(metas.iter().map(get).collect::<StringArray>()) };
        let corners = Float32Array::from_iter_values(metas.iter().flat_map(|m| m.boxes.iter().flatten().copied()));
        let boxes = FixedSizeListArray::try_new(item(DataType::Float32), 4, Arc::new(corners), None)?;
        let boxes = ListArray::try_new(
            item(boxes.data_type().clone()),
            OffsetBuffer::from_lengths(metas.iter().map(|m| m.boxes.len())),
            Arc::new(boxes),
            None,
        )?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(FixedSizeListArray::try_new(
                item(DataType::UInt8),
                pixels,
                Arc::new(UInt8Array::from(self.pixels)),
                None,
            )?),
            text(|m| &m.id),
            text(|m| &m.patient),
            text(|m| &m.label),
            maybe(|m| m.view.as_deref()),
            maybe(|m| m.sex.as_deref()),
            Arc::new(metas.iter().map(|m| m.age).collect::<UInt32Array>()),
            Arc::new(boxes),
            text(|m| &m.source),
            Arc::new(FixedSizeBinaryArray::try_from_iter(metas.iter().map(|m| m.digest.0))?),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        let mut writer = FileWriter::try_new(Vec::new(), &schema)?;
        writer.write(&batch)?;
        writer.into_inner()
    }
}

/// An open shard: columns that point into the file.
#[derive(Debug)]
pub struct Shard {
    pixels: usize,
    images: UInt8Array,
    columns: [StringArray; 6],
    age: UInt32Array,
    boxes: ListArray,
    digest: FixedSizeBinaryArray,
}

const TEXTS: [&str; 6] = ["id", "patient", "label", "view", "sex", "source"];
const LABEL: usize = 2;

impl Shard {
    /// Opens the file in `buffer`; images must have `pixels` pixels. Nothing is copied.
    ///
    /// # Errors
    /// A text that says what is wrong with the file.
    pub fn open(buffer: &Buffer, pixels: usize) -> Result<Self, String> {
        // Where a length in the file is wrong, Arrow's decoder may panic instead of saying so.
        let batch = catch_unwind(|| decode(buffer)).map_err(|_| "its decoder crashed".to_owned())?;
        let batch = batch.map_err(|e| e.to_string())?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column {name:?}"));
        let wrong = |name: &str| format!("its column {name:?} is of another type");
        let image = column("image")?.as_fixed_size_list_opt().ok_or_else(|| wrong("image"))?;
        if usize::try_from(image.value_length()) != Ok(pixels) {
            return Err(format!("its images have {} pixels, the manifest says {pixels}", image.value_length()));
        }
        let mut columns = Vec::new();
        for name in TEXTS {
            columns.push(column(name)?.as_string_opt::<i32>().ok_or_else(|| wrong(name))?.clone());
        }
        let boxes = column("boxes")?.as_list_opt::<i32>().ok_or_else(|| wrong("boxes"))?.clone();
        let quads = boxes.values().as_fixed_size_list_opt().ok_or_else(|| wrong("boxes"))?;
        if quads.value_length() != 4 || quads.values().as_primitive_opt::<Float32Type>().is_none() {
            return Err(wrong("boxes"));
        }
        let digest = column("digest")?.as_fixed_size_binary_opt().ok_or_else(|| wrong("digest"))?.clone();
        if digest.value_length() != 32 {
            return Err(wrong("digest"));
        }
        Ok(Self {
            pixels,
            images: image.values().as_primitive_opt::<UInt8Type>().ok_or_else(|| wrong("image"))?.clone(),
            columns: columns.try_into().map_err(|_| wrong("id"))?,
            age: column("age")?.as_primitive_opt::<UInt32Type>().ok_or_else(|| wrong("age"))?.clone(),
            boxes,
            digest,
        })
    }

    /// How many samples it holds.
    #[allow(clippy::len_without_is_empty, reason = "an empty one is as good as any")]
    pub fn len(&self) -> usize {
        self.age.len()
    }

    /// The pixels of sample `row`, row by row.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn image(&self, row: usize) -> &[u8] {
        &self.images.values()[row * self.pixels..(row + 1) * self.pixels]
    }

    /// The label of sample `row`.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn label(&self, row: usize) -> &str {
        self.columns[LABEL].value(row)
    }

    pub(crate) fn digest(&self, row: usize) -> Digest {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.digest.value(row));
        Digest(digest)
    }

    /// What else is known of sample `row`.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn meta(&self, row: usize) -> Meta {
        let [id, patient, label, view, sex, source] = &self.columns;
        let maybe = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let boxes = self.boxes.value(row);
        let corners = boxes.as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec();
        let start = boxes.as_fixed_size_list().value_offset_at(0);
        let quads = corners[start..start + boxes.len() * 4].as_chunks().0.to_vec();
        Meta {
            id: id.value(row).to_owned(),
            patient: patient.value(row).to_owned(),
            label: label.value(row).to_owned(),
            view: maybe(view),
            sex: maybe(sex),
            age: self.age.is_valid(row).then(|| self.age.value(row)),
            boxes: quads,
            source: source.value(row).to_owned(),
            digest: self.digest(row),
        }
    }
}

fn decode(buffer: &Buffer) -> Result<RecordBatch, ArrowError> {
    let bad = |why: &str| ArrowError::ParseError(why.to_owned());
    let end = buffer.len().checked_sub(TRAILER).ok_or_else(|| bad("the file is too short"))?;
    let mut trailer = [0; TRAILER];
    trailer.copy_from_slice(&buffer[end..]);
    let start =
        end.checked_sub(read_footer_length(trailer)?).ok_or_else(|| bad("the footer is longer than the file"))?;
    let footer = root_as_footer(&buffer[start..end]).map_err(|e| bad(&format!("the footer cannot be read: {e}")))?;
    let schema = try_fb_to_schema(footer.schema().ok_or_else(|| bad("there is no schema"))?)?;
    let decoder = FileDecoder::new(Arc::new(schema), footer.version());
    let batches =
        footer.recordBatches().filter(|b| b.len() == 1).ok_or_else(|| bad("there is not one record batch"))?;
    let block = batches.get(0);
    let (offset, length) = (usize::try_from(block.offset()), usize::try_from(block.bodyLength()));
    let (Ok(offset), Ok(length), Ok(head)) = (offset, length, usize::try_from(block.metaDataLength())) else {
        return Err(bad("the record batch lies outside of the file"));
    };
    let length = length.checked_add(head).filter(|l| offset.checked_add(*l).is_some_and(|end| end <= buffer.len()));
    let length = length.ok_or_else(|| bad("the record batch lies outside of the file"))?;
    decoder
        .read_record_batch(block, &buffer.slice_with_length(offset, length))?
        .ok_or_else(|| bad("there is no record batch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(i: u32) -> Meta {
        Meta {
            id: format!("id-{i}"),
            patient: format!("p{}", i / 2),
            label: if i.is_multiple_of(2) { "Normal" } else { "Lung Opacity" }.into(),
            view: (i != 1).then(|| "PA".into()),
            sex: None,
            age: (i > 0).then_some(40 + i),
            boxes: (0..i).map(|k| [k as f32, 0.25, 0.5, 0.125]).collect(),
            source: format!("{i}.dcm"),
            digest: Digest::of(&[i as u8]),
        }
    }

    fn file() -> Vec<u8> {
        let mut writer = Writer::new(2, 3);
        (0..4).for_each(|i| writer.push(&[i as u8; 6], meta(i)));
        assert_eq!(writer.labels()["Normal"], 2);
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = file();
        assert_eq!(bytes, file(), "the same bytes each time");
        let shard = Shard::open(&Buffer::from(bytes), 6).unwrap();
        assert_eq!(shard.len(), 4);
        for i in 0..4 {
            assert_eq!(shard.image(i as usize), [i as u8; 6]);
            assert_eq!(shard.meta(i as usize), meta(i));
        }
        assert_eq!(shard.label(3), "Lung Opacity");
    }

    #[test]
    fn pixels_are_not_copied() {
        let buffer = Buffer::from(file());
        let range = buffer.as_slice().as_ptr_range();
        let shard = Shard::open(&buffer, 6).unwrap();
        assert!(range.contains(&shard.image(2).as_ptr()));
    }

    #[test]
    fn a_file_of_another_shape_is_an_error() {
        let bytes = file();
        assert!(Shard::open(&Buffer::from(bytes.clone()), 7).unwrap_err().contains("7"));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x80;
            // Whatever is wrong with it, it is said.
            drop(Shard::open(&Buffer::from(damaged), 6));
        }
        for cut in [0, 5, 9, 10, bytes.len() / 2, bytes.len() - 1] {
            assert!(Shard::open(&Buffer::from(bytes[..cut].to_vec()), 6).is_err(), "cut at {cut}");
        }
    }
}
