//! The program from outside: output, files and exit codes of its commands. One module for each command or promise.

#[cfg(all(unix, feature = "browse"))]
mod browse;
mod cause;
#[cfg(all(unix, feature = "infer"))]
mod chat;
mod contributing;
mod convert;
#[cfg(feature = "diagnose")]
mod diagnose;
mod diff;
#[cfg(all(unix, feature = "browse", feature = "diagnose", feature = "train"))]
mod documentation;
#[cfg(feature = "infer")]
mod edit;
#[cfg(unix)]
mod fleet;
#[cfg(feature = "diagnose")]
mod gate;
#[cfg(feature = "infer")]
mod infer;
mod inspect;
mod judged;
mod judged_promises;
mod layouts;
mod library;
mod names;
#[cfg(feature = "infer")]
mod outputs;
mod page;
mod public_types;
mod quantized;
mod ranks;
mod recover;
mod release;
#[cfg(all(unix, feature = "remote"))]
mod remote;
#[cfg(all(unix, feature = "remote"))]
mod remote_requests;
mod report;
#[cfg(feature = "train")]
mod runs;
mod scan;
mod tables;
#[cfg(all(unix, any(feature = "browse", feature = "infer")))]
mod terminal;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod train_advice;
#[cfg(feature = "train")]
mod train_starts;
mod wrappers;
mod zoo;

use ckpt_kit::binary::Program;

/// The program, with a cache and a folder of its own.
fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_ckpt"))
}
