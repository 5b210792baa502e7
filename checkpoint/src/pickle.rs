//! Python's pickle, as far as `torch.save` uses it, run by a closed machine that knows tensors, containers and plain values, and
//! no code.
//!
//! Memory and time are bounded by the number of opcodes, of which there may be [`OPCODES`]. Containers live in an arena and
//! refer to each other by number: the memo recalls them while they still grow, they may contain themselves, and dropping
//! them never recurses, however deep they are nested.

use std::{collections::HashMap, rc::Rc};

use crate::Dtype;

/// A state dict of 50,000 tensors has half as many.
const OPCODES: usize = 1 << 22;
/// More dimensions than libtorch allows.
const DIMENSIONS: usize = 64;
/// More than any function that is called here takes.
const ARGUMENTS: usize = 16;

pub(crate) type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Mark,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// A container in the arena.
    Node(usize),
    Global(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
    /// Bytes, sets, what harmless calls give: nothing that anybody asks for.
    Other,
}

#[derive(Debug)]
pub(crate) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

/// A piece of memory that tensors look at.
#[derive(Debug)]
pub(crate) struct Storage {
    /// Of its elements; unknown for the untyped ones of newer files.
    pub(crate) dtype: Option<Dtype>,
    /// Its name in the file.
    pub(crate) key: Rc<str>,
    /// Where it begins within the memory of that name, in elements (older files have views of storages).
    pub(crate) offset: u64,
}

/// A tensor: a strided look at a storage.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) dtype: Dtype,
    pub(crate) key: Rc<str>,
    /// In elements, as are the strides.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) stride: Vec<u64>,
}

/// What a pickle held.
#[derive(Debug)]
pub(crate) struct Pickled {
    pub(crate) top: Value,
    pub(crate) arena: Vec<Node>,
    /// All that were named.
    pub(crate) storages: Vec<Rc<Storage>>,
    /// Bytes of the pickle; more may follow it.
    pub(crate) length: usize,
}

impl Pickled {
    pub(crate) fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(at) => self.arena.get(*at),
            _ => None,
        }
    }
}

/// Runs the pickle at the beginning of `code`.
pub(crate) fn run(code: &[u8]) -> Result<Pickled> {
    let mut machine = Machine { code, ..Machine::default() };
    let top = machine.run()?;
    let Machine { at, arena, storages, .. } = machine;
    Ok(Pickled { top, arena, storages, length: at })
}

/// The element type of a storage class (`torch.FloatStorage`), or of a `torch.dtype` (`torch.float32`).
fn dtype(name: &str) -> Option<Dtype> {
    Some(match name.strip_prefix("torch.")? {
        "DoubleStorage" | "float64" | "double" => Dtype::F64,
        "FloatStorage" | "float32" | "float" => Dtype::F32,
        "HalfStorage" | "float16" | "half" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "LongStorage" | "int64" | "long" => Dtype::I64,
        "IntStorage" | "int32" | "int" => Dtype::I32,
        "ShortStorage" | "int16" | "short" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::Bool,
        _ => return None,
    })
}

#[derive(Default)]
struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    arena: Vec<Node>,
    storages: Vec<Rc<Storage>>,
    /// Values that were copied from one container to another.
    copied: usize,
}

const UNDERFLOW: &str = "the pickle takes more than it put";
const NO_NUMBER: &str = "a number of the pickle is none";

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
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

    /// A length in `N` bytes, little endian.
    fn length<const N: usize>(&mut self) -> Result<usize> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(self.take(N)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| "a length in the pickle is out of all bounds".to_owned())
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.code[self.at.min(self.code.len())..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or("the pickle ends too early")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a line of the pickle is no UTF-8".to_owned())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| UNDERFLOW.to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark)).ok_or("the pickle lacks a mark")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text in the pickle is no UTF-8")?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    fn integer(&mut self, len: usize) -> Result<()> {
        let digits = self.take(len)?;
        if digits.len() > 8 {
            // torch's magic number is the only one of that size that is looked at; `legacy` knows its bytes.
            self.push(Value::Other);
            return Ok(());
        }
        let fill = if digits.last().is_some_and(|d| d & 0x80 != 0) { 0xff } else { 0 };
        let mut bytes = [fill; 8];
        bytes[..digits.len()].copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        let value = self.stack.last().cloned().ok_or("the pickle remembers nothing")?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let value = self.memo.get(&slot).cloned().ok_or("the pickle recalls what it never had")?;
        self.push(value);
        Ok(())
    }

    /// The slot that a line names.
    fn slot(&mut self) -> Result<u32> {
        self.line()?.parse().map_err(|_| "a place in the pickle's memory is no number".to_owned())
    }

    fn new_node(&mut self, node: Node) {
        self.arena.push(node);
        self.push(Value::Node(self.arena.len() - 1));
    }

    fn container(&mut self) -> Result<Option<&mut Node>> {
        match self.stack.last() {
            Some(Value::Node(at)) => Ok(self.arena.get_mut(*at)),
            Some(_) => Ok(None),
            None => Err("the pickle sets an item of nothing".to_owned()),
        }
    }

    fn set_items(&mut self, pairs: Vec<Value>) -> Result<()> {
        if let Some(Node::Dict(dict)) = self.container()? {
            let mut pairs = pairs.into_iter();
            while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
                dict.push((key, value));
            }
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        if let Some(Node::List(list)) = self.container()? {
            list.extend(items);
        }
        Ok(())
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let from = self.stack.len().checked_sub(n).ok_or(UNDERFLOW)?;
        let values = self.stack.split_off(from);
        self.new_node(Node::Tuple(values));
        Ok(())
    }

    fn run(&mut self) -> Result<Value> {
        for _ in 0..OPCODES {
            let at = self.at;
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op).map_err(|why| format!("{why} (opcode {op:#04x} at byte {at} of the pickle)"))?;
        }
        Err(format!("the pickle has more than {OPCODES} opcodes: no state dict is that large"))
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            // Protocol, frame.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.push(Value::Mark),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let value = self.stack.last().cloned().ok_or(UNDERFLOW)?;
                self.push(value);
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'I' => {
                let value = match self.line()? {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    text => Value::Int(text.parse().map_err(|_| NO_NUMBER)?),
                };
                self.push(value);
            }
            b'L' => {
                let text = self.line()?.trim_end_matches('L');
                self.push(text.parse().map_or(Value::Other, Value::Int));
            }
            b'F' => {
                let text = self.line()?;
                self.push(Value::Float(text.parse().map_err(|_| NO_NUMBER)?));
            }
            b'K' => self.short_int::<1>()?,
            b'M' => self.short_int::<2>()?,
            b'J' => {
                let n = i32::from_le_bytes(self.number()?);
                self.push(Value::Int(i64::from(n)));
            }
            0x8a => {
                let len = self.length::<1>()?;
                self.integer(len)?;
            }
            0x8b => {
                let len = self.length::<4>()?;
                self.integer(len)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.number()?);
                self.push(Value::Float(value));
            }
            // Texts: of Python 2 (`U`, `T`, `S`) and 3.
            b'U' | 0x8c => {
                let len = self.length::<1>()?;
                self.text(len)?;
            }
            b'T' | b'X' => {
                let len = self.length::<4>()?;
                self.text(len)?;
            }
            0x8d => {
                let len = self.length::<8>()?;
                self.text(len)?;
            }
            b'S' | b'V' => {
                let text = self.line()?.trim_matches(['\'', '"']);
                self.push(Value::Text(text.into()));
            }
            // Bytes.
            b'C' => self.bytes::<1>()?,
            b'B' => self.bytes::<4>()?,
            0x8e | 0x96 => self.bytes::<8>()?,
            b'}' => self.new_node(Node::Dict(Vec::new())),
            b']' => self.new_node(Node::List(Vec::new())),
            b')' => self.new_node(Node::Tuple(Vec::new())),
            b't' => {
                let values = self.pop_to_mark()?;
                self.new_node(Node::Tuple(values));
            }
            b'l' => {
                let values = self.pop_to_mark()?;
                self.new_node(Node::List(values));
            }
            b'd' => {
                let values = self.pop_to_mark()?;
                self.new_node(Node::Dict(Vec::new()));
                self.set_items(values)?;
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let pairs = self.pop_to_mark()?;
                self.set_items(pairs)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            // Sets.
            0x8f => self.push(Value::Other),
            0x90 => drop(self.pop_to_mark()?),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Value::Other);
            }
            b'q' => {
                let slot = u32::from(self.take(1)?[0]);
                self.remember(slot)?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.number()?);
                self.remember(slot)?;
            }
            b'p' => {
                let slot = self.slot()?;
                self.remember(slot)?;
            }
            0x94 => self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
            b'h' => {
                let slot = u32::from(self.take(1)?[0]);
                self.recall(slot)?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.number()?);
                self.recall(slot)?;
            }
            b'g' => {
                let slot = self.slot()?;
                self.recall(slot)?;
            }
            // Attributes, such as OrderedDict's _metadata.
            b'b' => drop(self.pop()?),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module}.{name}").into()));
            }
            0x93 => {
                let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else {
                    return Err("a name is no text".to_owned());
                };
                self.push(Value::Global(format!("{module}.{name}").into()));
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            0x81 | 0x92 => {
                let arguments = if op == 0x92 { 2 } else { 1 };
                for _ in 0..arguments {
                    self.pop()?;
                }
                return match self.pop()? {
                    Value::Global(name) => Err(foreign(&name)),
                    _ => Err("the pickle makes an object of no class".to_owned()),
                };
            }
            _ => return Err("the pickle does what no state dict needs".to_owned()),
        }
        Ok(())
    }

    fn short_int<const N: usize>(&mut self) -> Result<()> {
        let n = self.length::<N>()?;
        self.push(Value::Int(n as i64));
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<()> {
        let len = self.length::<N>()?;
        self.take(len)?;
        self.push(Value::Other);
        Ok(())
    }

    fn pop_tuple(&mut self, what: &str) -> Result<Vec<Value>> {
        let value = self.pop()?;
        match value {
            Value::Node(at) => match self.arena.get(at) {
                Some(Node::Tuple(items)) if items.len() <= ARGUMENTS => Ok(items.clone()),
                _ => Err(format!("{what} are no tuple of at most {ARGUMENTS}")),
            },
            _ => Err(format!("{what} are no tuple")),
        }
    }

    /// `('storage', torch.FloatStorage, key, location, elements)`; in older files with a view `(key, offset, elements)` or None
    /// at the end.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop_tuple("the parts of a storage's name")?;
        let [Value::Text(_), Value::Global(class), Value::Text(key), rest @ ..] = &id[..] else {
            return Err("a storage is named in an unknown way".to_owned());
        };
        let kind = dtype(class);
        if kind.is_none() && !matches!(&**class, "torch.storage.UntypedStorage" | "torch.UntypedStorage") {
            return Err(format!("storage class {class:.80} is not known"));
        }
        let mut offset = 0;
        if let Some(Value::Node(at)) = rest.get(2) {
            let Some(Node::Tuple(view)) = self.arena.get(*at) else {
                return Err("a storage's view is described in an unknown way".to_owned());
            };
            let [_, Value::Int(from), _] = &view[..] else {
                return Err("a storage's view is described in an unknown way".to_owned());
            };
            offset = u64::try_from(*from).map_err(|_| "a storage's view begins before it")?;
        }
        let storage = Rc::new(Storage { dtype: kind, key: Rc::clone(key), offset });
        self.storages.push(Rc::clone(&storage));
        self.push(Value::Storage(storage));
        Ok(())
    }

    /// Sizes or strides.
    fn sizes(&self, value: &Value) -> Result<Vec<u64>> {
        let Value::Node(at) = value else { return Err("a tensor's shape is no tuple".to_owned()) };
        let Some(Node::Tuple(items) | Node::List(items)) = self.arena.get(*at) else {
            return Err("a tensor's shape is no tuple".to_owned());
        };
        if items.len() > DIMENSIONS {
            return Err(format!("a tensor has {} dimensions, {DIMENSIONS} may be", items.len()));
        }
        let size = |v: &Value| if let Value::Int(n) = v { u64::try_from(*n).ok() } else { None };
        items.iter().map(size).collect::<Option<_>>().ok_or_else(|| "a tensor has a negative size".to_owned())
    }

    fn tensor(&self, args: &[Value], kind: Option<Dtype>) -> Result<Value> {
        let [Value::Storage(storage), Value::Int(offset), shape, stride, ..] = args else {
            return Err("a tensor is described in an unknown way".to_owned());
        };
        let dtype = kind.or(storage.dtype).ok_or("a tensor lies in a storage of unknown type")?;
        let offset = u64::try_from(*offset).ok().and_then(|o| o.checked_add(storage.offset));
        let view = View {
            dtype,
            key: storage.key.clone(),
            offset: offset.ok_or("a tensor begins before its storage")?,
            shape: self.sizes(shape)?,
            stride: self.sizes(stride)?,
        };
        if view.shape.len() != view.stride.len() {
            return Err("a tensor has more sizes than strides, or fewer".to_owned());
        }
        Ok(Value::Tensor(Rc::new(view)))
    }

    fn reduce(&mut self) -> Result<()> {
        let args = self.pop_tuple("a call's arguments")?;
        let Value::Global(name) = self.pop()? else { return Err("a call of what is no function".to_owned()) };
        match &*name {
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" | "__builtin__.dict" => {
                // Python 2 gives the pairs as an argument, Python 3 sets them afterwards.
                let pairs = self.pairs(&args);
                self.copied += pairs.len();
                if self.copied > OPCODES {
                    return Err("the pickle copies too much".to_owned());
                }
                self.new_node(Node::Dict(pairs));
            }
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                let tensor = self.tensor(&args, None)?;
                self.push(tensor);
            }
            // … requires_grad, hooks, dtype, metadata.
            "torch._utils._rebuild_tensor_v3" => {
                let Some(Value::Global(kind)) = args.get(6) else {
                    return Err("a tensor is described in an unknown way".to_owned());
                };
                let kind = dtype(kind).ok_or_else(|| format!("element type {kind:.80} is not known"))?;
                let tensor = self.tensor(&args, Some(kind))?;
                self.push(tensor);
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                let tensor = args.into_iter().next().ok_or("a parameter without a tensor")?;
                self.push(tensor);
            }
            // Plain values in disguise, which no weights depend on.
            "torch.Size"
            | "torch.device"
            | "torch.dtype"
            | "_codecs.encode"
            | "numpy.dtype"
            | "numpy.core.multiarray.scalar"
            | "numpy._core.multiarray.scalar"
            | "builtins.set"
            | "__builtin__.set" => self.push(Value::Other),
            other => return Err(foreign(other)),
        }
        Ok(())
    }

    /// `([(key, value), …],)`.
    fn pairs(&self, args: &[Value]) -> Vec<(Value, Value)> {
        let node = |value: &Value| if let Value::Node(at) = value { self.arena.get(*at) } else { None };
        let Some(Node::List(items)) = args.first().and_then(node) else { return Vec::new() };
        let pair = |value: &Value| match node(value) {
            Some(Node::Tuple(pair) | Node::List(pair)) if pair.len() == 2 => Some((pair[0].clone(), pair[1].clone())),
            _ => None,
        };
        items.iter().filter_map(pair).collect()
    }
}

fn foreign(name: &str) -> String {
    format!(
        "the file wants to call {name:.80}, which no state dict needs: refused; if it holds a whole model, save its state_dict() \
         in Python instead"
    )
}
