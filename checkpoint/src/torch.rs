//! What `torch.save` writes, read: a zip of stored entries with one pickle (since torch 1.6), or a row of pickles with raw memory
//! behind them (before).
//!
//! Memory: storages are looked at where they lie in the file. What is made of them together, and the names, are bounded by
//! [`GROWTH`] times the file (views may share a storage).

use std::{collections::HashMap, io, rc::Rc};

use crate::{
    TensorData,
    pickle::{self, Node, Pickled, Result, Storage, Value, View},
    weights::Document,
};

/// How much larger than the file the tensors in it may become.
const GROWTH: usize = 8;
/// Deeper nesting than this is no state dict.
const DEPTH: usize = 64;
/// More items than this are no state dict.
const ITEMS: usize = 1 << 20;
/// Small files may have names and views that are longer than they.
const LEAST: usize = 1 << 20;
/// The first pickle of files from before torch 1.6: the number 0x1950a86a20f9469cfc6c.
pub(crate) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Where storages lie.
trait Storages<'a> {
    /// The bytes of the storage `key`.
    fn get(&mut self, key: &Rc<str>) -> Result<&'a [u8]>;
}

/// A file since torch 1.6.
pub(crate) fn read_zip(bytes: &[u8]) -> Result<Document> {
    let mut archive = Archive::open(bytes)?;
    if let Ok(order) = archive.entry("byteorder")
        && order != b"little"
    {
        return Err("the file is big-endian; save it on a little-endian machine".to_owned());
    }
    let pickled = pickle::run(archive.entry("data.pkl")?)?;
    document(&pickled, &mut archive, bytes.len())
}

struct Archive<'a> {
    bytes: &'a [u8],
    zip: zip::ZipArchive<io::Cursor<&'a [u8]>>,
    root: String,
    known: HashMap<Rc<str>, &'a [u8]>,
    /// Entries may lie over each other: what may still be checksummed.
    budget: usize,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let zip = zip::ZipArchive::new(io::Cursor::new(bytes)).map_err(|e| format!("not a readable zip file: {e}"))?;
        let name = zip
            .file_names()
            .flatten()
            .find(|n| n == "data.pkl" || n.ends_with("/data.pkl"))
            .ok_or("the zip file holds no data.pkl: it was not written by torch.save")?
            .into_owned();
        let root = name.trim_end_matches("data.pkl").to_owned();
        Ok(Self { bytes, zip, root, known: HashMap::new(), budget: bytes.len().saturating_mul(GROWTH) })
    }

    /// The entry `name` where it lies in the file, its checksum verified.
    fn entry(&mut self, name: &str) -> Result<&'a [u8]> {
        let Self { bytes, zip, root, budget, .. } = self;
        let bad = |why: String| format!("{name:.80}: {why}");
        let mut file = zip.by_name(&format!("{root}{name}")).map_err(|e| bad(e.to_string()))?;
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(bad("it is compressed, which torch.save never does".to_owned()));
        }
        let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
        *budget = budget.checked_sub(size).ok_or_else(|| bad("the entries are far larger than the file".to_owned()))?;
        let from = file.data_start().and_then(|at| usize::try_from(at).ok());
        let part = from.and_then(|from| bytes.get(from..from.checked_add(size)?));
        let part = part.ok_or_else(|| bad("it reaches beyond the file".to_owned()))?;
        io::copy(&mut file, &mut io::sink()).map_err(|e| bad(format!("damaged: {e}")))?;
        Ok(part)
    }
}

impl<'a> Storages<'a> for Archive<'a> {
    fn get(&mut self, key: &Rc<str>) -> Result<&'a [u8]> {
        if let Some(part) = self.known.get(key) {
            return Ok(part);
        }
        let part = self.entry(&format!("data/{key}"))?;
        self.known.insert(Rc::clone(key), part);
        Ok(part)
    }
}

/// A file from before torch 1.6: the magic number, the protocol's version, the machine's sizes, the object, the storages' keys, and
/// then each storage: its number of elements and they.
pub(crate) fn read_legacy(bytes: &[u8]) -> Result<Document> {
    let mut at = MAGIC.len();
    let mut next = |what: &str| {
        let rest = bytes.get(at..).unwrap_or_default();
        let pickled = pickle::run(rest).map_err(|why| format!("{what}: {why}"))?;
        at += pickled.length;
        Ok::<Pickled, String>(pickled)
    };
    let version = next("the format's version")?;
    if !matches!(version.top, Value::Int(1001)) {
        return Err("it is of an unknown version of torch's old format".to_owned());
    }
    let machine = next("the machine's sizes")?;
    if let Some(Node::Dict(facts)) = machine.node(&machine.top)
        && facts.iter().any(|(k, v)| matches!((k, v), (Value::Text(k), Value::Bool(false)) if &**k == "little_endian"))
    {
        return Err("the file is big-endian; save it on a little-endian machine".to_owned());
    }
    let object = next("the state dict")?;
    let keys = next("the storages' keys")?;
    let Some(Node::List(keys)) = keys.node(&keys.top) else {
        return Err("the storages' keys are no list".to_owned());
    };
    let keys = keys.iter().map(|k| if let Value::Text(k) = k { Some(Rc::clone(k)) } else { None });
    let keys = keys.collect::<Option<Vec<_>>>().ok_or("a storage's key is no text")?;
    document(&object, &mut Heap::new(bytes, at, &keys, &object.storages)?, bytes.len())
}

struct Heap<'a>(HashMap<Rc<str>, &'a [u8]>);

impl<'a> Heap<'a> {
    fn new(bytes: &'a [u8], mut at: usize, keys: &[Rc<str>], storages: &[Rc<Storage>]) -> Result<Self> {
        let size = |s: &Rc<Storage>| s.dtype.map(|d| (Rc::clone(&s.key), d.bytes()));
        let sizes: HashMap<Rc<str>, usize> = storages.iter().filter_map(size).collect();
        let mut all = HashMap::new();
        for key in keys {
            let short = || format!("storage {key:.80} reaches beyond the file: it is cut off");
            let size = sizes.get(key).ok_or_else(|| format!("storage {key:.80} is of unknown type"))?;
            let header = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
            let length = usize::try_from(u64::from_le_bytes(*header)).ok().and_then(|n| n.checked_mul(*size));
            let from = at + header.len();
            let end = length.and_then(|n| from.checked_add(n)).filter(|end| *end <= bytes.len()).ok_or_else(short)?;
            all.insert(Rc::clone(key), &bytes[from..end]);
            at = end;
        }
        Ok(Self(all))
    }
}

impl<'a> Storages<'a> for Heap<'a> {
    fn get(&mut self, key: &Rc<str>) -> Result<&'a [u8]> {
        self.0.get(key).copied().ok_or_else(|| format!("there is no storage {key:.80}"))
    }
}

fn document<'a>(pickled: &Pickled, storages: &mut impl Storages<'a>, file: usize) -> Result<Document> {
    let mut budget = file.saturating_mul(GROWTH).max(LEAST);
    let mut found = Found { pickled, views: Vec::new(), numbers: Vec::new(), items: 0, names: budget };
    found.collect(&pickled.top, "", 0)?;
    let mut out = Document { numbers: found.numbers.into_iter().collect(), ..Document::default() };
    for (name, view) in found.views {
        let gathered = storages.get(&view.key).and_then(|s| gather(&view, s, &mut budget));
        let tensor = gathered.map_err(|why| format!("{name:.200}: {why}"))?;
        out.order.push(name.clone());
        out.tensors.insert(name, tensor);
    }
    Ok(out)
}

/// What lies in the containers, by its path.
struct Found<'a> {
    pickled: &'a Pickled,
    views: Vec<(String, Rc<View>)>,
    numbers: Vec<(String, f64)>,
    items: usize,
    /// Bytes that names may still have.
    names: usize,
}

impl Found<'_> {
    fn collect(&mut self, value: &Value, path: &str, depth: usize) -> Result<()> {
        let too_large = || "nested too deep, or too much, for a state dict".to_owned();
        self.items += 1;
        if depth > DEPTH || self.items > ITEMS {
            return Err(too_large());
        }
        let pickled = self.pickled;
        match value {
            Value::Tensor(view) => self.views.push((path.to_owned(), Rc::clone(view))),
            Value::Int(n) => self.numbers.push((path.to_owned(), *n as f64)),
            Value::Float(n) => self.numbers.push((path.to_owned(), *n)),
            _ => {}
        }
        let mut inner = |key: &str, value: &Value| {
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            self.names = self.names.checked_sub(path.len()).ok_or_else(too_large)?;
            self.collect(value, &path, depth + 1)
        };
        match pickled.node(value) {
            Some(Node::Dict(items)) => {
                for (key, value) in items {
                    match key {
                        Value::Text(text) => inner(text, value)?,
                        Value::Int(n) => inner(&n.to_string(), value)?,
                        _ => {}
                    }
                }
            }
            Some(Node::Tuple(items) | Node::List(items)) => {
                for (i, value) in items.iter().enumerate() {
                    inner(&i.to_string(), value)?;
                }
            }
            None => {}
        }
        Ok(())
    }
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
    let out = if elements == 0 {
        Vec::new()
    } else if is_contiguous(view) {
        let from = view.offset as usize * size;
        storage[from..from + bytes].to_vec()
    } else {
        strided(view, storage, bytes)
    };
    TensorData::new(view.dtype, view.shape.clone(), out).ok_or_else(overflow)
}

fn is_contiguous(view: &View) -> bool {
    let mut wanted = 1;
    view.shape.iter().zip(&view.stride).rev().all(|(dim, stride)| {
        let fits = *dim == 1 || *stride == wanted;
        wanted *= dim;
        fits
    })
}

/// The elements of a view whose bounds were checked.
fn strided(view: &View, storage: &[u8], bytes: usize) -> Vec<u8> {
    let size = view.dtype.bytes();
    let mut out = Vec::with_capacity(bytes);
    let mut index = vec![0u64; view.shape.len()];
    while out.len() < bytes {
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
    out
}
