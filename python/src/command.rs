//! The command line: as the program, and as a function.

use std::ffi::OsString;
use std::io::Write;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ckpt::Level;
use ckpt_inspect::ErrorKind;
use pyo3::prelude::*;

use crate::work::interruptible;

/// The exit code of a Rust program that panics.
const PANICKED: u8 = 101;

/// Level, text, kind of error and file of a message; no `Path` of Python, which would take a slash from `https://`.
type Message = (&'static str, String, Option<&'static str>, Option<OsString>);

/// Runs `ckpt` with `args`, without the program's name, and returns its exit code, its output, and its messages.
#[pyfunction]
pub fn run(py: Python<'_>, args: Vec<OsString>) -> PyResult<(u8, String, Vec<Message>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (args, stopped) = (command_line(args), stop.clone());
    let captured = interruptible(py, &stop, move || ckpt::capture(args, &stopped))?;
    let message = |message: ckpt::Message| {
        let level = match message.level {
            Level::Error => "error",
            Level::Warning => "warning",
            _ => "note",
        };
        (level, message.text, message.kind.map(ErrorKind::name), message.file.map(PathBuf::into_os_string))
    };
    Ok((captured.exit.code(), captured.output, captured.messages.into_iter().map(message).collect()))
}

/// Is the program `ckpt`, with `args` after its name, and returns its exit code. The caller has given the signals of Python
/// back to the system, and exits with the code.
#[pyfunction]
pub fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    let args = command_line(args);
    py.detach(|| {
        ckpt::handle_signals();
        ckpt::pass_over_caught_panics();
        let code = catch_unwind(|| ckpt::run(args).code()).unwrap_or(PANICKED);
        // Nothing flushes Rust's output when an interpreter exits.
        let _ = std::io::stdout().flush();
        code
    })
}

fn command_line(args: Vec<OsString>) -> Vec<OsString> {
    std::iter::once("ckpt".into()).chain(args).collect()
}
