//! Writes what `torch.load(weights_only=True)` reads: torch's zip format, with a pickle of tensors, containers and plain values. The
//! same item gives the same bytes.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use crate::{Dtype, Error, TensorData};

/// What a file may hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<'a> {
    /// `torch.Tensor`, on the CPU.
    Tensor(&'a TensorData),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `bool`
    Bool(bool),
    /// `str`
    Text(String),
    /// `None`
    None,
    /// `dict`; keys are texts or ints.
    Dict(Vec<(Item<'a>, Item<'a>)>),
    /// `collections.OrderedDict`, as a state dict is.
    State(Vec<(String, &'a TensorData)>),
    /// `list`
    List(Vec<Item<'a>>),
    /// `tuple`
    Tuple(Vec<Item<'a>>),
}

impl From<&str> for Item<'_> {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Of torch's records of memory, so that it can be mapped.
const ALIGNMENT: u16 = 64;
/// Above this size an entry needs the zip format's long fields.
const LARGE: usize = u32::MAX as usize;

/// `item` as a `.pt` file.
///
/// # Errors
/// [`Error::Weights`] when the zip cannot be made.
pub fn write(item: &Item<'_>) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::Weights { name: "pt".to_owned(), why };
    let mut pickle = Pickle { code: vec![0x80, 2], tensors: Vec::new() };
    pickle.item(item);
    pickle.code.push(b'.');
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: String, bytes: &[u8]| {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(bytes.len() >= LARGE)
            .with_alignment(ALIGNMENT);
        zip.start_file(name, options).map_err(|e| bad(e.to_string()))?;
        zip.write_all(bytes).map_err(|e| bad(e.to_string()))
    };
    entry("archive/data.pkl".to_owned(), &pickle.code)?;
    entry("archive/byteorder".to_owned(), b"little")?;
    for (i, tensor) in pickle.tensors.iter().enumerate() {
        entry(format!("archive/data/{i}"), &tensor.bytes)?;
    }
    entry("archive/version".to_owned(), b"3\n")?;
    Ok(zip.finish().map_err(|e| bad(e.to_string()))?.into_inner())
}

fn storage(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::Bool => "BoolStorage",
    }
}

/// A program of protocol 2.
struct Pickle<'a> {
    code: Vec<u8>,
    tensors: Vec<&'a TensorData>,
}

impl<'a> Pickle<'a> {
    fn op(&mut self, op: u8) {
        self.code.push(op);
    }

    fn global(&mut self, module: &str, name: &str) {
        self.code.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn int(&mut self, n: i64) {
        match (u8::try_from(n), i32::try_from(n)) {
            (Ok(n), _) => self.code.extend([b'K', n]),
            (_, Ok(n)) => {
                self.op(b'J');
                self.code.extend(n.to_le_bytes());
            }
            _ => {
                self.code.extend([0x8a, 8]);
                self.code.extend(n.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.op(b'X');
        self.code.extend((text.len() as u32).to_le_bytes());
        self.code.extend(text.bytes());
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.code.extend(b")R");
    }

    fn item(&mut self, item: &Item<'a>) {
        match item {
            Item::Tensor(tensor) => self.tensor(tensor),
            Item::Int(n) => self.int(*n),
            Item::Float(n) => {
                self.op(b'G');
                self.code.extend(n.to_be_bytes());
            }
            Item::Bool(b) => self.op(if *b { 0x88 } else { 0x89 }),
            Item::Text(text) => self.text(text),
            Item::None => self.op(b'N'),
            Item::Dict(items) => {
                self.code.extend(b"}(");
                for (key, value) in items {
                    self.item(key);
                    self.item(value);
                }
                self.op(b'u');
            }
            Item::State(items) => {
                self.ordered_dict();
                self.op(b'(');
                for (name, tensor) in items {
                    self.text(name);
                    self.tensor(tensor);
                }
                self.op(b'u');
            }
            Item::List(items) => {
                self.code.extend(b"](");
                items.iter().for_each(|item| self.item(item));
                self.op(b'e');
            }
            Item::Tuple(items) => {
                self.op(b'(');
                items.iter().for_each(|item| self.item(item));
                self.op(b't');
            }
        }
    }

    /// `torch._utils._rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())`, contiguous.
    fn tensor(&mut self, tensor: &'a TensorData) {
        let elements: u64 = tensor.shape.iter().product();
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.code.extend(b"((");
        self.text("storage");
        self.global("torch", storage(tensor.dtype));
        self.text(&self.tensors.len().to_string());
        self.text("cpu");
        self.int(elements as i64);
        self.code.extend(b"tQ");
        self.tensors.push(tensor);
        self.int(0);
        let mut strides: Vec<u64> = Vec::new();
        let mut stride = 1;
        for dim in tensor.shape.iter().rev() {
            strides.push(stride);
            stride *= (*dim).max(1);
        }
        strides.reverse();
        for sizes in [&tensor.shape, &strides] {
            self.op(b'(');
            sizes.iter().for_each(|n| self.int(*n as i64));
            self.op(b't');
        }
        self.op(0x89);
        self.ordered_dict();
        self.code.extend(b"tR");
    }
}
