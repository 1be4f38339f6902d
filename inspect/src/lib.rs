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

mod analysis;
mod bytes;
mod cache;
mod checkpoint;
mod damage;
mod describe;
pub mod diff;
mod dtype;
mod error;
mod format;
pub mod ggml;
pub mod health;
mod layout;
pub mod meaning;
pub mod measure;
pub mod metadata;
mod names;
mod open;
pub mod optimizer;
mod processor;
pub mod record;
pub mod salvage;
pub mod scan;
mod step;
pub mod survey;
mod ternary;

use bytes::storage;
use format::{tensor, torch_legacy, torch_zip};

pub use analysis::{cause, run, trend};
pub use bytes::{SharedBytes, pickle, staged, zip};
pub use cache::Cache;
pub use checkpoint::{Checkpoint, lookup};
pub use damage::{Damage, DamageKind, Notice, NoticeKind};
pub use describe::{Options, describe};
pub use dtype::DType;
pub use error::{Error, ErrorKind, Result, printable, printable_in_log};
pub use format::packing::TernaryPacking;
pub use format::{Format, gguf, npy, packing, recognises, safetensors, torch};
use health::verdict;
pub use layout::{find, identity};
pub use meaning::elements::{Elements, RowOrder};
#[cfg(feature = "vocabulary")]
pub use meaning::vocabulary;
pub use meaning::{Model, ModelConfig};
pub use names::without_state_dict;
pub use open::{I2sLayout, OpenOptions, open, open_bytes, open_bytes_with, open_with};
pub use processor::InstructionSet;
pub use record::{CheckpointRecord, Group, TensorRecord};
pub use step::from_path as step_from_path;
pub use storage::Storage;
pub use tensor::{Element, Quantizer, Sparse, TensorInfo, contiguous_strides};
pub use verdict::{Finding, Levels, Thresholds, Verdict, judge, judge_tensor};
