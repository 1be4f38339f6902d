//! Run ternary and plain transformer checkpoints: weights packed for the processor at hand, a paged KV cache, sampling,
//! tokenizers.
//!
//! ```no_run
//! use ckpt_infer::{Cache, Generator, KvType, LoadOptions, Model, Pool, Runner, SampleOptions, Stop, WhenFull};
//!
//! let pool = Pool::new(2);
//! let checkpoint = ckpt_inspect::open("model.pt")?;
//! let model = Model::load(&checkpoint, &LoadOptions::default(), &pool)?;
//! let mut runner = Runner::new(&model, &pool);
//! let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
//! let stop = Stop::after(32);
//! let mut generator = Generator::new(&mut runner, &mut cache, &SampleOptions::default(), stop);
//! let outcome = generator.run(&[1, 2, 3], &mut |token| {
//!     println!("{}", token.id);
//!     true
//! })?;
//! println!("{:?}", outcome.reason);
//! # Ok::<(), ckpt_infer::Error>(())
//! ```

#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

#[cfg(target_endian = "big")]
compile_error!("weights are copied as the little-endian elements that checkpoints hold");

mod attention;
pub mod bench;
mod cache;
pub mod compare;
mod config;
mod conversation;
#[cfg(feature = "diagnose")]
pub mod diagnose;
mod dump;
mod error;
mod experts;
mod generate;
mod ids;
mod kernel;
mod layer;
mod load;
mod model;
mod prepare;
mod prompt_cache;
mod rope;
mod rows;
mod sample;
mod stop_text;
mod template;
mod tokenizer;

pub use cache::{Cache, KvType, WhenFull};
pub use ckpt_inspect::ModelConfig as Config;
pub use ckpt_inspect::meaning::architecture::{Part, Role};
pub use ckpt_inspect::meaning::names::Names;
pub use ckpt_inspect::meaning::{Assumption, Given as Settings, RopePairing, RopeScaling};
pub use ckpt_inspect::vocabulary::Role as TokenRole;
pub use config::configuration;
pub use conversation::Conversation;
pub use dump::logits_file;
pub use error::{Error, Result};
pub use generate::{Generator, Outcome, Reason, Stop, Token};
pub use ids::{holds_ids, read_ids};
pub use kernel::Kernel;
pub use kernel::pool::Pool;
pub use load::{LoadOptions, TableType};
pub use model::{Logits, Model, Runner, Sequence};
pub use sample::{SampleOptions, Sampler, log_softmax};
pub use stop_text::StopText;
pub use template::{Clock, Message, Talk, Template, Written};
pub use tokenizer::{
    FIM_TEXTS, FimTokens, Specials, TextStream, Tokenizer, panic_is_caught, tokenizer_fault,
};
