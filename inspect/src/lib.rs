//! Open any neural-network checkpoint without executing it, describe it, measure it, judge it.
//!
//! ```no_run
//! let checkpoint = ckpt_inspect::open("model.pt")?;
//! for tensor in &checkpoint.tensors {
//!     println!("{} {} {:?}", tensor.name, tensor.dtype, tensor.shape);
//! }
//! let mut record = ckpt_inspect::describe(&checkpoint, Default::default(), &|_| ());
//! ckpt_inspect::judge(&mut record, &Default::default());
//! println!("{:?}", record.verdict);
//! # Ok::<(), ckpt_inspect::Error>(())
//! ```

mod bytes;
mod cache;
pub mod cause;
mod checkpoint;
mod damage;
mod describe;
pub mod diff;
mod dtype;
mod error;
mod format;
pub mod ggml;
pub mod gguf;
pub mod health;
mod layout;
mod meaning;
pub mod measure;
pub mod metadata;
mod model;
mod names;
mod open;
pub mod optimizer;
pub mod pickle;
pub mod record;
pub mod run;
pub mod safetensors;
pub mod salvage;
pub mod scan;
mod step;
mod storage;
pub mod survey;
mod tensor;
mod ternary;
pub mod torch;
mod torch_legacy;
mod torch_tar;
mod torch_zip;
pub mod trend;
mod verdict;
pub mod zip;

pub use bytes::SharedBytes;
pub use cache::Cache;
pub use checkpoint::{Checkpoint, lookup};
pub use damage::{Damage, DamageKind, Notice, NoticeKind};
pub use describe::{Options, describe};
pub use dtype::DType;
pub use error::{Error, ErrorKind, Result, printable};
pub use format::packing::{self, TernaryPacking};
pub use format::{Format, recognises};
pub use layout::{find, identity};
pub use meaning::elements::{Elements, RowOrder};
pub use model::{Model, StudentConfig};
pub use names::without_state_dict;
pub use open::{I2sLayout, OpenOptions, open, open_bytes, open_bytes_with, open_with};
pub use record::{CheckpointRecord, Group, TensorRecord};
pub use step::from_path as step_from_path;
pub use storage::Storage;
pub use tensor::{Element, Quantizer, Sparse, TensorInfo, contiguous_strides};
pub use verdict::{Finding, Levels, Thresholds, Verdict, judge, judge_tensor};
