//! Weights files: safetensors, and what `torch.save` writes.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use crate::{Dtype, Error, TensorData, Tensors, tensor::SafeView, torch};

/// What a weights file holds. Names are paths: containers' keys and items' places, joined with dots (`model_weights.encoder.…`,
/// `optimizer_weights.state.0.exp_avg`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Document {
    /// The tensors.
    pub tensors: Tensors,
    /// Their names in the file's order.
    pub order: Vec<String>,
    /// Plain numbers beside them: `epoch`, `optimizer_weights.param_groups.0.lr`.
    pub numbers: BTreeMap<String, f64>,
}

/// Reads the tensors of a weights file; `name` is for errors. Known by content: safetensors, or torch's (`.pt`, `.pth`), its zip
/// format or that from before torch 1.6. Nested dictionaries are joined with dots: `model_weights.encoder.…`.
///
/// # Errors
/// [`Error::Weights`] says what is wrong. Hostile bytes cannot make it panic or take memory beyond a small multiple of
/// their own size.
pub fn read(bytes: &[u8], name: &str) -> Result<Tensors, Error> {
    Ok(read_document(bytes, name)?.tensors)
}

/// As [`read`], with the order of the tensors and the numbers beside them.
///
/// # Errors
/// As [`read`]'s.
pub fn read_document(bytes: &[u8], name: &str) -> Result<Document, Error> {
    let bad = |why: String| Error::Weights { name: name.to_owned(), why };
    if bytes.starts_with(b"PK\x03\x04") {
        return torch::read_zip(bytes).map_err(bad);
    }
    if bytes.starts_with(torch::MAGIC) {
        return torch::read_legacy(bytes).map_err(bad);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        let why =
            "this is torch's oldest format, a tar file, from before 0.1.10; load it in Python and torch.save it again";
        return Err(bad(why.to_owned()));
    }
    // The length of a safetensors header may begin with any byte, that of a pickle too; what follows it is JSON.
    if bytes.first() == Some(&0x80) && bytes.get(8) != Some(&b'{') {
        return Err(bad("a pickle, but not one that torch.save wrote".to_owned()));
    }
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| bad(format!("neither safetensors ({e}) nor a file of torch.save")))?;
    let mut out = Document::default();
    for (key, view) in file.tensors() {
        let dtype =
            Dtype::of(view.dtype()).ok_or_else(|| bad(format!("{key}: dtype {:?} is not known", view.dtype())))?;
        let shape = view.shape().iter().map(|d| *d as u64).collect();
        let tensor = TensorData::new(dtype, shape, view.data().to_vec())
            .ok_or_else(|| bad(format!("{key}: its bytes do not fit its shape")))?;
        out.order.push(key.clone());
        out.tensors.insert(key, tensor);
    }
    Ok(out)
}

/// The state dict among a file's tensors: below `model_weights` (the paper's code), `state_dict` or `model_state_dict` (as many
/// trainers have it) or `model/` (our checkpoints), else all of them; without the `module.` that data-parallel training puts
/// before every name.
pub fn state_dict(tensors: &Tensors) -> Tensors {
    let below = |prefix: &str| -> Tensors {
        tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
    };
    let nested = ["model_weights.", "state_dict.", "model_state_dict.", "model/"].map(below);
    let found = nested.into_iter().find(|t| !t.is_empty()).unwrap_or_else(|| tensors.clone());
    let bare = |name: &String| name.strip_prefix("module.").map(str::to_owned);
    match found.keys().map(bare).collect::<Option<Vec<String>>>() {
        Some(names) => names.into_iter().zip(found.into_values()).collect(),
        None => found,
    }
}

/// The tensors as a safetensors file. The same tensors give the same bytes.
///
/// # Errors
/// When the format refuses them.
pub fn to_safetensors(tensors: &Tensors) -> Result<Vec<u8>, Error> {
    let views: BTreeMap<&str, SafeView<'_>> = tensors
        .iter()
        .map(|(name, tensor)| {
            let shape = tensor.shape.iter().map(|d| *d as usize).collect();
            (name.as_str(), SafeView { tensor, shape })
        })
        .collect();
    safetensors::serialize(views, None).map_err(|e| refused(&e.to_string()))
}

/// As [`to_safetensors`], with texts in `__metadata__`. (The crate takes them in a hash map, whose order is another each time.)
///
/// # Errors
/// When the format refuses them.
pub fn to_safetensors_with(tensors: &Tensors, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    let plain = to_safetensors(tensors)?;
    let (length, rest) = plain.split_first_chunk::<8>().ok_or_else(|| refused("no header"))?;
    let (header, data) = rest
        .split_at_checked(u64::from_le_bytes(*length) as usize)
        .ok_or_else(|| refused("the header is longer than the file"))?;
    let header = header.trim_ascii_end();
    let mut out = br#"{"__metadata__":"#.to_vec();
    out.extend(serde_json::to_vec(metadata).map_err(|e| refused(&e.to_string()))?);
    if header != b"{}" {
        out.push(b',');
    }
    out.extend(&header[1..]);
    out.resize(out.len().next_multiple_of(8), b' ');
    out.splice(0..0, (out.len() as u64).to_le_bytes());
    out.extend(data);
    Ok(out)
}

fn refused(why: &str) -> Error {
    Error::Weights { name: "safetensors".to_owned(), why: why.to_owned() }
}
