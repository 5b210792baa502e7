//! One tensor as bytes.

use std::{borrow::Cow, fmt};

use safetensors::tensor::{Dtype as Safe, View};

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident = $safe:ident, $bytes:literal, $text:literal;)*) => {
        /// Element types.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Dtype { $($(#[$doc])* $name,)* }

        impl Dtype {
            /// Bytes of one element.
            pub fn bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }
            pub(crate) fn safe(self) -> Safe {
                match self { $(Self::$name => Safe::$safe,)* }
            }
            pub(crate) fn of(safe: Safe) -> Option<Self> {
                match safe { $(Safe::$safe => Some(Self::$name),)* _ => None }
            }
        }

        impl fmt::Display for Dtype {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

dtypes! {
    /// 64-bit float.
    F64 = F64, 8, "f64";
    /// 32-bit float.
    F32 = F32, 4, "f32";
    /// IEEE half.
    F16 = F16, 2, "f16";
    /// bfloat16.
    BF16 = BF16, 2, "bf16";
    /// 64-bit integer.
    I64 = I64, 8, "i64";
    /// 32-bit integer.
    I32 = I32, 4, "i32";
    /// 16-bit integer.
    I16 = I16, 2, "i16";
    /// 8-bit integer.
    I8 = I8, 1, "i8";
    /// Byte.
    U8 = U8, 1, "u8";
    /// One byte, 0 or 1.
    Bool = BOOL, 1, "bool";
}

/// A dense tensor: little-endian, contiguous, row-major.
#[derive(Clone, PartialEq, Eq)]
pub struct TensorData {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes of the dimensions; empty for a scalar.
    pub shape: Vec<u64>,
    /// `product(shape) * dtype.bytes()` bytes.
    pub bytes: Vec<u8>,
}

impl TensorData {
    /// A tensor, if the number of bytes fits the shape.
    pub fn new(dtype: Dtype, shape: Vec<u64>, bytes: Vec<u8>) -> Option<Self> {
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        let wanted = elements.checked_mul(dtype.bytes() as u64)?;
        (wanted == bytes.len() as u64).then_some(Self { dtype, shape, bytes })
    }

    /// A vector of f32.
    pub fn from_f32(values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: vec![values.len() as u64], bytes }
    }
}

impl fmt::Debug for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// What safetensors wants to see of a tensor: its shape is in `usize`.
pub(crate) struct SafeView<'a> {
    pub(crate) tensor: &'a TensorData,
    pub(crate) shape: Vec<usize>,
}

impl View for SafeView<'_> {
    fn dtype(&self) -> Safe {
        self.tensor.dtype.safe()
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.tensor.bytes)
    }
    fn data_len(&self) -> usize {
        self.tensor.bytes.len()
    }
}
