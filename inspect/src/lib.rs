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

#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

pub mod analysis;
mod bytes;
mod damage;
mod error;
mod format;
pub mod health;
mod layout;
pub mod meaning;
mod processor;
pub mod scan;

use bytes::storage;
use format::{dtype, instance, tensor, torch_legacy};
use health::{cache, verdict};
use layout::step;
use meaning::{checkpoint, group, open, ternary};

// Crates whose types are in public signatures, in the same version.
pub use {ndarray, serde_json};

pub use analysis::{cause, diff, run, salvage, trend};
pub use bytes::computed::Compute;
pub use bytes::{SharedBytes, metadata, pickle, staged, stored, zip};
pub use cache::Cache;
pub use checkpoint::Checkpoint;
pub use damage::{Damage, DamageKind, Notice, NoticeKind};
pub use dtype::DType;
pub use error::{
    Error, ErrorKind, PrintableJson, Result, path_text, printable, printable_in_log, printable_json,
};
pub use format::packing::TernaryPacking;
pub use format::{Format, ggml, gguf, npy, packing, quantized, recognises, safetensors, torch};
pub use group::{
    MODEL_STATE, holds_state_dict, is_average_key, is_of_optimizer, is_training_state, without_state_dict,
};
pub use health::coverage::{self, Coverage};
pub use health::describe::{Options, describe, describe_until};
pub use health::off::Off;
pub use health::rules::{Judgement, RULES, Rule, judge_tensor, judgements};
pub use health::{measure, record, survey};
pub use instance::Instance;
pub use layout::companion::{holds_objects, is_companion};
pub use layout::{Listing, files_of, find, identity, list, model_folder};
pub use meaning::elements::{Elements, Factors, NotHeld, Repacked, RowOrder};
pub use meaning::memory::Memory;
pub use meaning::role::Role;
#[cfg(feature = "vocabulary")]
pub use meaning::vocabulary;
pub use meaning::{Model, ModelConfig, optimizer};
pub use metadata::lookup;
pub use open::{I2sLayout, OpenOptions, open, open_bytes, open_bytes_with, open_with};
pub use processor::InstructionSet;
pub use record::{CheckpointRecord, TensorRecord};
pub use step::{StepSource, from_path as step_from_path};
pub use storage::Storage;
pub use tensor::{Element, Group, Quantizer, Sparse, SparseLayout, TensorInfo, contiguous_strides};
pub use verdict::{Finding, Levels, Thresholds, Verdict, judge, judge_each};
