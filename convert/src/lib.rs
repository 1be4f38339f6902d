//! Write checkpoints as PyTorch, SafeTensors, GGUF, Hugging Face, NumPy and packed ternary files, and verify what was
//! written.
//!
//! ```no_run
//! use ckpt_convert::{Control, Options, Plan, Target, verify_written, write};
//!
//! let source = ckpt_inspect::open("model.pt")?;
//! let options = Options::new(Target::SafeTensors);
//! let mut plan = Plan::new(&source, &options)?;
//! let stop = Default::default();
//! write(&mut plan, &options, "model.safetensors".as_ref(), Control::new(&|_| (), &stop))?;
//! assert!(verify_written(&plan, "model.safetensors".as_ref())?.agrees());
//! # Ok::<(), ckpt_convert::Error>(())
//! ```

#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

mod agreement;
mod apart;
mod bound;
mod build;
mod compare;
mod complete;
mod dcp;
pub mod edit;
mod encode;
mod error;
mod gguf;
mod hf;
mod kept;
mod narrow;
mod note;
mod npz;
mod pickle;
mod plain;
mod plan;
pub mod quant;
mod round;
mod runner;
mod safetensors;
mod save;
mod sharing;
mod simd;
mod source;
mod target;
mod ternary;
mod tokenizer;
mod torch;
mod verify;
mod write;
mod zip;

pub use agreement::{Agreement, Rounding, Rule, Which};
pub use apart::QuantizationError;
pub use ckpt_inspect::meaning::names;
pub use ckpt_inspect::staged::Control;
pub use complete::{Fault, Lacks};
pub use encode::{Losses, Rotary};
pub use error::{Error, Result};
pub use gguf::Gguf;
/// A pattern that selects weights by name in [`Options`].
pub use globset::{Glob, GlobMatcher};
pub use note::{Note, Omission, Remedy};
pub use plan::{Blob, Content, Elements, Held, Options, Output, Pair, Plan};
pub use save::{Object, save};
pub use source::row_order;
pub use target::{Form, Target};
pub use ternary::Grid;
pub use tokenizer::tokenizer_files;
pub use verify::{Report, verify, verify_written};
pub use write::{Written, write};
