//! What a pickle says of a tensor that has no data of its own.

use crate::metadata::Value;

/// An instance of a subclass of PyTorch's tensors that only wraps others.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Instance {
    /// Its class, with the module: `torchao.dtypes.affine_quantized_tensor.AffineQuantizedTensor`.
    pub class: String,
    /// Its attributes that are no tensors.
    pub attributes: Value,
}

impl Instance {
    /// Whether it is a tensor of its own, whose storage is of this class, which is not known.
    pub(crate) fn is_storage(&self) -> bool {
        self.class.ends_with("Storage")
    }

    /// The name of its class alone.
    pub fn class_name(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or_default()
    }
}
