//! The program `ckpt`: the library's command line, in a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    ckpt::handle_signals();
    ckpt::run(std::env::args_os()).into()
}
