//! `torch.save` files: a zip of stored entries with one pickle. The pickle is run by a closed machine that knows tensors,
//! dictionaries and plain values, and no code.
//!
//! Memory: tensors point into the file until they are asked for, the stack and the memo are bounded by the number of
//! opcodes, and the bytes of all tensors together by [`GROWTH`] times the file (views may share a storage).

use std::{collections::HashMap, io::Read, rc::Rc};

use crate::{Dtype, TensorData, Tensors};

/// How much larger than the file the tensors in it may become.
const GROWTH: usize = 8;
/// Deeper nesting than this is no state dict.
const DEPTH: usize = 64;

type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<[Value]>),
    /// Dictionaries and lists live in an arena: the memo refers to them while they still grow.
    Dict(usize),
    List,
    Global(Rc<str>),
    Storage {
        dtype: Dtype,
        key: Rc<str>,
    },
    Tensor(Rc<View>),
    /// A float, a bool, bytes: nothing a state dict's reader asks for.
    Other,
}

#[derive(Debug)]
struct View {
    dtype: Dtype,
    key: Rc<str>,
    offset: u64,
    shape: Vec<u64>,
    stride: Vec<u64>,
}

pub(crate) fn read_zip(bytes: &[u8]) -> Result<Tensors> {
    let mut zip =
        zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|e| format!("not a readable zip file: {e}"))?;
    let pickle_name = zip
        .file_names()
        .flatten()
        .find(|n| n == "data.pkl" || n.ends_with("/data.pkl"))
        .ok_or("the zip file holds no data.pkl: it was not written by torch.save")?
        .into_owned();
    let root = pickle_name.trim_end_matches("data.pkl").to_owned();
    let mut entry = |name: &str| -> Result<Vec<u8>> {
        let file = zip.by_name(name).map_err(|e| format!("{name}: {e}"))?;
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!("{name} is compressed, which torch.save never does"));
        }
        let mut content = Vec::new();
        file.take(bytes.len() as u64).read_to_end(&mut content).map_err(|e| format!("{name}: {e}"))?;
        Ok(content)
    };
    if let Ok(order) = entry(&format!("{root}byteorder"))
        && order != b"little"
    {
        return Err("the file is big-endian; save it on a little-endian machine".to_owned());
    }
    let program = entry(&pickle_name)?;
    let mut machine = Machine { code: &program, at: 0, stack: Vec::new(), memo: HashMap::new(), dicts: Vec::new() };
    let top = machine.run()?;
    let mut views = Vec::new();
    collect(&machine.dicts, &top, "", 0, &mut views)?;
    let mut storages: HashMap<Rc<str>, Vec<u8>> = HashMap::new();
    let mut budget = bytes.len().saturating_mul(GROWTH);
    let mut tensors = Tensors::new();
    for (name, view) in views {
        if !storages.contains_key(&view.key) {
            storages.insert(view.key.clone(), entry(&format!("{root}data/{}", view.key))?);
        }
        let tensor = gather(&view, &storages[&view.key], &mut budget).map_err(|why| format!("{name}: {why}"))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn collect(
    dicts: &[Vec<(Value, Value)>],
    value: &Value,
    path: &str,
    depth: usize,
    out: &mut Vec<(String, Rc<View>)>,
) -> Result<()> {
    if depth > DEPTH || out.len() > 1 << 20 {
        return Err("nested too deep, or too many tensors, for a state dict".to_owned());
    }
    match value {
        Value::Tensor(view) => out.push((path.to_owned(), view.clone())),
        Value::Dict(at) => {
            for (key, value) in &dicts[*at] {
                let key = match key {
                    Value::Text(text) => text.to_string(),
                    Value::Int(n) => n.to_string(),
                    _ => continue,
                };
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                collect(dicts, value, &path, depth + 1, out)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The view's elements, contiguous.
fn gather(view: &View, storage: &[u8], budget: &mut usize) -> Result<TensorData> {
    let size = view.dtype.bytes();
    let overflow = || "its shape is out of all bounds".to_owned();
    let elements = view.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).ok_or_else(overflow)?;
    let bytes = usize::try_from(elements).ok().and_then(|n| n.checked_mul(size)).ok_or_else(overflow)?;
    *budget = budget.checked_sub(bytes).ok_or("the tensors are far larger than the file")?;
    let mut last = view.offset;
    for (dim, stride) in view.shape.iter().zip(&view.stride).filter(|_| elements > 0) {
        last = (dim - 1).checked_mul(*stride).and_then(|n| last.checked_add(n)).ok_or_else(overflow)?;
    }
    let held = (storage.len() / size) as u64;
    if elements > 0 && last >= held {
        return Err(format!("it reaches element {last} of a storage that has {held}"));
    }
    let mut out = Vec::with_capacity(bytes);
    let mut index = vec![0u64; view.shape.len()];
    for _ in 0..elements {
        let at: u64 = view.offset + index.iter().zip(&view.stride).map(|(i, s)| i * s).sum::<u64>();
        let from = at as usize * size;
        out.extend_from_slice(&storage[from..from + size]);
        for d in (0..index.len()).rev() {
            index[d] += 1;
            if index[d] < view.shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
    TensorData::new(view.dtype, view.shape.clone(), out).ok_or_else(overflow)
}

struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.code.len()).ok_or("the pickle ends too early")?;
        let part = &self.code[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.code[self.at.min(self.code.len())..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or("the pickle ends too early")?;
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| "a name in the pickle is no UTF-8")?.to_owned();
        self.at += end + 1;
        Ok(text)
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| "the pickle takes more than it put".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark)).ok_or("the pickle lacks a mark")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let text: Rc<str> =
            std::str::from_utf8(self.take(len)?).map_err(|_| "a text in the pickle is no UTF-8")?.into();
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        let value = self.stack.last().cloned().ok_or("the pickle remembers nothing")?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let value = self.memo.get(&slot).cloned().ok_or("the pickle recalls what it never had")?;
        self.stack.push(value);
        Ok(())
    }

    fn put(&mut self, pairs: Vec<Value>) -> Result<()> {
        // Lists' and other objects' items are of no interest here; a dictionary's are.
        if let Some(Value::Dict(at)) = self.stack.last() {
            let dict = &mut self.dicts[*at];
            let mut pairs = pairs.into_iter();
            while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
                dict.push((key, value));
            }
        } else if self.stack.is_empty() {
            return Err("the pickle sets an item of nothing".to_owned());
        }
        Ok(())
    }

    fn new_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let from = self.stack.len().checked_sub(n).ok_or("the pickle takes more than it put")?;
        let values = self.stack.split_off(from);
        self.stack.push(Value::Tuple(values.into()));
        Ok(())
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            let at = self.at;
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?[0]),
                0x95 => drop(self.number::<8>()?),
                b'(' => self.stack.push(Value::Mark),
                b'}' => self.new_dict(),
                b']' => self.stack.push(Value::List),
                b')' => self.stack.push(Value::Tuple(Rc::new([]))),
                b'N' => self.stack.push(Value::None),
                0x88 | 0x89 => self.stack.push(Value::Other),
                b'K' => {
                    let [n] = self.number()?;
                    self.stack.push(Value::Int(i64::from(n)));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.number()?);
                    self.stack.push(Value::Int(i64::from(n)));
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.number()?);
                    self.stack.push(Value::Int(i64::from(n)));
                }
                0x8a => {
                    let [len] = self.number()?;
                    let digits = self.take(usize::from(len))?;
                    if digits.len() > 8 {
                        return Err("a number in the pickle is too long".to_owned());
                    }
                    let fill = if digits.last().is_some_and(|d| d & 0x80 != 0) { 0xff } else { 0 };
                    let mut bytes = [fill; 8];
                    bytes[..digits.len()].copy_from_slice(digits);
                    self.stack.push(Value::Int(i64::from_le_bytes(bytes)));
                }
                b'G' => {
                    self.number::<8>()?;
                    self.stack.push(Value::Other);
                }
                b'X' => {
                    let len = u32::from_le_bytes(self.number()?);
                    self.text(len as usize)?;
                }
                0x8c => {
                    let [len] = self.number()?;
                    self.text(usize::from(len))?;
                }
                b'q' => {
                    let [slot] = self.number()?;
                    self.remember(u32::from(slot))?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.number()?);
                    self.remember(slot)?;
                }
                0x94 => self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
                b'h' => {
                    let [slot] = self.number()?;
                    self.recall(u32::from(slot))?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.number()?);
                    self.recall(slot)?;
                }
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.stack.push(Value::Tuple(values.into()));
                }
                op @ 0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.put(vec![key, value])?;
                }
                b'u' => {
                    let pairs = self.pop_to_mark()?;
                    self.put(pairs)?;
                }
                b'a' => drop(self.pop()?),
                b'e' => drop(self.pop_to_mark()?),
                // Attributes, such as OrderedDict's _metadata.
                b'b' => drop(self.pop()?),
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.stack.push(Value::Global(name.into()));
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                op => return Err(format!("pickle opcode {op:#04x} at byte {at} is not one that a state dict needs")),
            }
        }
    }

    /// `('storage', torch.FloatStorage, key, location, elements)`.
    fn persistent(&mut self) -> Result<()> {
        let Value::Tuple(id) = self.pop()? else { return Err("a storage is not named by a tuple".to_owned()) };
        let [Value::Text(_), Value::Global(class), Value::Text(key), ..] = &id[..] else {
            return Err("a storage is named in an unknown way".to_owned());
        };
        let dtype = match &**class {
            "torch.DoubleStorage" => Dtype::F64,
            "torch.FloatStorage" => Dtype::F32,
            "torch.HalfStorage" => Dtype::F16,
            "torch.BFloat16Storage" => Dtype::BF16,
            "torch.LongStorage" => Dtype::I64,
            "torch.IntStorage" => Dtype::I32,
            "torch.ShortStorage" => Dtype::I16,
            "torch.CharStorage" => Dtype::I8,
            "torch.ByteStorage" => Dtype::U8,
            "torch.BoolStorage" => Dtype::Bool,
            other => return Err(format!("storage class {other} is not known")),
        };
        self.stack.push(Value::Storage { dtype, key: key.clone() });
        Ok(())
    }

    fn reduce(&mut self) -> Result<()> {
        let Value::Tuple(args) = self.pop()? else { return Err("a call has no arguments".to_owned()) };
        let Value::Global(name) = self.pop()? else { return Err("a call of what is no function".to_owned()) };
        match &*name {
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" => self.new_dict(),
            "torch._utils._rebuild_tensor_v2" => {
                let [Value::Storage { dtype, key }, Value::Int(offset), Value::Tuple(shape), Value::Tuple(stride), ..] =
                    &args[..]
                else {
                    return Err("a tensor is described in an unknown way".to_owned());
                };
                let sizes = |values: &[Value]| -> Option<Vec<u64>> {
                    let size = |v: &Value| if let Value::Int(n) = v { u64::try_from(*n).ok() } else { None };
                    values.iter().map(size).collect()
                };
                let negative = "a tensor has a negative size";
                let view = View {
                    dtype: *dtype,
                    key: key.clone(),
                    offset: u64::try_from(*offset).map_err(|_| negative)?,
                    shape: sizes(shape).ok_or(negative)?,
                    stride: sizes(stride).ok_or(negative)?,
                };
                if view.shape.len() != view.stride.len() {
                    return Err("a tensor has more sizes than strides, or fewer".to_owned());
                }
                self.stack.push(Value::Tensor(Rc::new(view)));
            }
            "torch._utils._rebuild_parameter" => {
                let tensor = args.first().cloned().ok_or("a parameter without a tensor")?;
                self.stack.push(tensor);
            }
            "torch.Size" | "torch.device" | "torch.dtype" => self.stack.push(Value::Other),
            other => return Err(format!("the file wants to call {other}, which no state dict needs: refused")),
        }
        Ok(())
    }
}
