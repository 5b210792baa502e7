//! Between libtorch's tensors and plain bytes.

use morph_checkpoint::{Dtype, TensorData};
use tch::{Device, Kind, Tensor};

use crate::Error;

const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Double, Dtype::F64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int16, Dtype::I16),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::Bool),
];

/// The tensor's values as bytes, whatever its device and strides.
///
/// # Errors
/// When its element type is none that is stored.
pub fn to_data(tensor: &Tensor) -> Result<TensorData, Error> {
    let kind = tensor.kind();
    let dtype = KINDS.iter().find(|(k, _)| *k == kind).map(|(_, d)| *d);
    let dtype = dtype.ok_or_else(|| Error::Torch(format!("element type {kind:?} cannot be stored")))?;
    let dense = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; dense.numel() * dtype.bytes()];
    let elements = dense.numel();
    dense.f_copy_data_u8(&mut bytes, elements)?;
    let shape = dense.size().iter().map(|d| *d as u64).collect();
    Ok(TensorData { dtype, shape, bytes })
}

/// A tensor with these values on `device`.
///
/// # Errors
/// When libtorch refuses.
pub fn from_data(data: &TensorData, device: Device) -> Result<Tensor, Error> {
    let kind = KINDS.iter().find(|(_, d)| *d == data.dtype).map_or(Kind::Float, |(k, _)| *k);
    let shape: Vec<i64> = data.shape.iter().map(|d| *d as i64).collect();
    Ok(Tensor::f_from_data_size(&data.bytes, &shape, kind)?.to_device(device))
}
