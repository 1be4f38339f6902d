//! `ckpt`: checkpoint forensics on the command line. This file maps subcommands to their modules, one file each.

mod bench;
mod browse;
mod chat;
mod convert;
mod diagnose;
mod diff;
mod filter;
mod fold;
mod format;
mod gate;
mod generate;
mod infer;
mod inspect;
mod load;
mod model;
mod outputs;
mod paths;
mod perplexity;
mod recover;
mod report;
mod scan;
mod sequences;
mod signal;
mod terminal;
mod train;
mod verify;

use std::process::ExitCode;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, Parser, Subcommand};

/// Look inside checkpoints (.pt, .safetensors, .gguf), judge whether they are alive, gate and report on them.
///
/// Nothing in a checkpoint is ever executed.
#[derive(Parser)]
#[command(name = "ckpt", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    color: terminal::ColorArgs,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Browse(browse::Args),
    Diff(diff::Args),
    Gate(gate::Args),
    Report(report::Args),
    Convert(convert::Args),
    Verify(verify::Args),
    Recover(recover::Args),
    Scan(scan::Args),
    Infer(infer::Args),
    Bench(bench::Args),
    Chat(chat::Args),
    Diagnose(diagnose::Args),
    Train(Box<train::Args>),
    /// Print a shell's completion script.
    Completions {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
}

/// Exit codes: what scripts and CI systems act on.
pub mod exit {
    /// Fine.
    pub const FINE: u8 = 0;
    /// The gate or a verification says no; two checkpoints differ.
    pub const REFUSED: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// A file cannot be read or is damaged.
    pub const UNREADABLE: u8 = 3;
    /// An output cannot be written.
    pub const UNWRITABLE: u8 = 4;
}

/// Where another process cuts a mapped file short while it is read, the system ends this one with SIGBUS. This says
/// why, with the exit code of a file that cannot be read, and gives a terminal back that was taken over.
#[cfg(unix)]
fn explain_lost_pages() {
    const WHY: &[u8] =
        b"error: a file became shorter while it was read; try again when nothing writes to it any more\n";
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let explain = || {
        // Threads that read the same file get here together: the first one ends them all.
        while BEGUN.swap(true, Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        browse::give_back_at_once();
        let _ = rustix::io::write(rustix::stdio::stderr(), WHY);
        signal_hook::low_level::exit(exit::UNREADABLE.into());
    };
    // SAFETY: no other thread runs yet that could set a handler at the same time. The standard library's would come
    // before this one, and let the next thread's signal end the program with its default action.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    // SAFETY: the handler does nothing but load atomics, write, tcsetattr and _exit, which are async-signal-safe.
    let _ = unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, explain) };
}

fn main() -> ExitCode {
    #[cfg(unix)]
    {
        explain_lost_pages();
        signal::survive_size_limits();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { exit::FINE };
            let _ = error.print();
            return code.into();
        }
    };
    cli.color.apply();
    let result = match cli.command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Browse(args) => browse::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Scan(args) => scan::run(&args),
        Command::Infer(args) => infer::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Diagnose(args) => diagnose::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ckpt", &mut script);
            terminal::print(&String::from_utf8_lossy(&script)).map(|()| exit::FINE)
        }
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            terminal::error(&failure.message);
            failure.code.into()
        }
    }
}

impl From<ckpt_infer::Error> for Failure {
    fn from(error: ckpt_infer::Error) -> Self {
        use ckpt_infer::Error;
        let code = match error {
            Error::Checkpoint(error) => return error.into(),
            Error::Output(error) => return error.into(),
            Error::Unsupported { .. }
            | Error::Inconsistent { .. }
            | Error::PromptCache { .. }
            | Error::Input { .. }
            | Error::NotANumber { .. }
            | Error::Tokenizer { .. } => exit::UNREADABLE,
            Error::Token { .. } | Error::ContextFull { .. } | Error::Usage(_) => exit::USAGE,
        };
        Failure { message: error.to_string(), code }
    }
}

/// Why a command stopped, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// For the user, complete with what to try.
    pub message: String,
    /// One of [`exit`].
    pub code: u8,
}

impl Failure {
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: exit::USAGE }
    }

    /// A file cannot be read or is damaged.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: exit::UNREADABLE }
    }

    /// An output is there already; nothing was written.
    pub fn exists(path: &std::path::Path) -> Self {
        Failure::unwritable(format!("{} exists; --force replaces it", path.display()))
    }

    /// An output cannot be written.
    pub fn unwritable(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: exit::UNWRITABLE }
    }
}

impl From<ckpt_inspect::staged::Error> for Failure {
    fn from(error: ckpt_inspect::staged::Error) -> Self {
        match error {
            ckpt_inspect::staged::Error::Dash => Failure::usage(error.to_string()),
            other => Failure::unwritable(other.to_string()),
        }
    }
}

impl From<ckpt_inspect::Error> for Failure {
    fn from(error: ckpt_inspect::Error) -> Self {
        let code = match error.kind {
            ckpt_inspect::ErrorKind::NotFound => exit::USAGE,
            _ => exit::UNREADABLE,
        };
        Failure { message: error.to_string(), code }
    }
}
