//! Weights files: safetensors, and what `torch.save` writes.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use crate::{Dtype, Error, TensorData, Tensors, pickle, tensor::SafeView};

/// Reads the tensors of a weights file; `name` is for errors. Known by content: safetensors, or torch's zip format
/// (`.pt`, `.pth`). Nested dictionaries are joined with dots: `model_weights.encoder.…`.
///
/// # Errors
/// [`Error::Weights`] says what is wrong. Hostile bytes cannot make it panic or take memory beyond a small multiple of
/// their own size.
pub fn read(bytes: &[u8], name: &str) -> Result<Tensors, Error> {
    let bad = |why: String| Error::Weights { name: name.to_owned(), why };
    if bytes.starts_with(b"PK\x03\x04") {
        return pickle::read_zip(bytes).map_err(bad);
    }
    if bytes.starts_with(&[0x80, 2]) {
        return Err(bad(
            "this is torch's old format, from before 1.6; load it in Python and torch.save it again".to_owned()
        ));
    }
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| bad(format!("neither safetensors ({e}) nor a torch.save zip file")))?;
    let mut tensors = Tensors::new();
    for (key, view) in file.tensors() {
        let dtype =
            Dtype::of(view.dtype()).ok_or_else(|| bad(format!("{key}: dtype {:?} is not known", view.dtype())))?;
        let shape = view.shape().iter().map(|d| *d as u64).collect();
        let tensor = TensorData::new(dtype, shape, view.data().to_vec())
            .ok_or_else(|| bad(format!("{key}: its bytes do not fit its shape")))?;
        tensors.insert(key, tensor);
    }
    Ok(tensors)
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
    safetensors::serialize(views, None)
        .map_err(|e| Error::Weights { name: "safetensors".to_owned(), why: e.to_string() })
}
