//! The whole command line inside another program: `cargo run --example gate CHECKPOINT...`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = ["ckpt", "gate"].map(OsString::from);
    let exit = ckpt::run(command.into_iter().chain(std::env::args_os().skip(1)));
    println!("{}", if exit == ckpt::Exit::Fine { "go on" } else { "stop here" });
    exit.into()
}
