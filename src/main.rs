//! The program `ckpt`: runs the library's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    ckpt::handle_signals();
    ckpt::pass_over_caught_panics();
    ckpt::run(std::env::args_os()).into()
}
