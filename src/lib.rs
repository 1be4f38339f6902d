//! `ckpt`: checkpoint forensics on the command line, as a function for other front ends. This file maps subcommands to
//! their modules, one file each. Libraries to build on are `ckpt-inspect`, `ckpt-convert`, `ckpt-infer`, `ckpt-train`
//! and `ckpt-reports`.
//!
//! ```no_run
//! use ckpt::Exit;
//!
//! let exit = ckpt::run(["ckpt", "gate", "model.pt"]);
//! if exit == Exit::Refused {
//!     eprintln!("not this one");
//! }
//! ```
//!
//! # Features
//! All are on by default; without them there are `inspect`, `diff`, `gate`, `report`, `convert`, `edit`, `verify`,
//! `recover` and `scan`.
//! - `browse`: that command.
//! - `infer`: `infer`, `chat`, `bench`, `verify --outputs`, and `edit --perplexity`.
//! - `diagnose`: that command, and `gate --diagnose`.
//! - `train`: that command.
//! - `remote`: files at URLs wherever checkpoints are expected.

#[cfg(feature = "infer")]
mod bench;
#[cfg(feature = "browse")]
mod browse;
mod capture;
#[cfg(feature = "infer")]
mod chat;
mod convert;
#[cfg(feature = "diagnose")]
mod diagnose;
mod diff;
mod edit;
mod exit;
mod failure;
mod filter;
mod fold;
mod format;
mod gate;
#[cfg(feature = "infer")]
mod generate;
#[cfg(feature = "infer")]
mod infer;
mod inspect;
mod load;
mod man;
#[cfg(feature = "infer")]
mod model;
#[cfg(feature = "infer")]
mod outputs;
mod paths;
#[cfg(feature = "infer")]
mod perplexity;
mod recover;
#[cfg(feature = "remote")]
mod remote;
mod report;
mod scan;
#[cfg(feature = "infer")]
mod sequences;
mod signal;
mod terminal;
#[cfg(feature = "train")]
mod train;
mod verify;
mod writing;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use capture::{Captured, Level, Message, capture};
pub use exit::Exit;
use failure::Failure;
pub use paths::is_pattern;
#[cfg(feature = "remote")]
pub use remote::read_remote_files;
pub use signal::handle_signals;

/// Keeps panics out of standard error that are caught and become errors, those of the library that reads tokenizers. For
/// programs that are nothing but [`run`].
pub fn pass_over_caught_panics() {
    #[cfg(feature = "infer")]
    {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !ckpt_infer::panic_is_caught() {
                tell(panic);
            }
        }));
    }
}

const EXAMPLES: &str = "To begin with:
  ckpt inspect model.safetensors        what is in it, and is it alive?
  ckpt report runs/ -o report.html      when did which layer die?
  ckpt gate checkpoints/                exit code 1 if one is not good enough
  ckpt scan downloads/                  would loading them run code?
  ckpt convert model.pt --to gguf -o model.gguf";

/// Inspect neural-network checkpoints (.pt, .safetensors, .gguf), judge whether they are alive, gate, report on,
/// convert, run and train them.
///
/// Nothing in a checkpoint is ever executed.
#[derive(Parser)]
#[command(name = "ckpt", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    color: terminal::ColorArgs,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    #[cfg(feature = "browse")]
    Browse(browse::Args),
    Diff(diff::Args),
    Gate(gate::Args),
    Report(report::Args),
    Convert(convert::Args),
    Edit(Box<edit::Args>),
    Verify(verify::Args),
    Recover(recover::Args),
    Scan(scan::Args),
    #[cfg(feature = "infer")]
    Infer(Box<infer::Args>),
    #[cfg(feature = "infer")]
    Bench(bench::Args),
    #[cfg(feature = "infer")]
    Chat(chat::Args),
    #[cfg(feature = "diagnose")]
    Diagnose(diagnose::Args),
    #[cfg(feature = "train")]
    Train(Box<train::Args>),
    /// Print a shell's completion script.
    Completions {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
    Man(man::Args),
}

/// Runs the command line `args`, the first of which is the program's name, as the program does: results go to standard
/// output, messages to standard error. Nothing in a checkpoint is ever executed.
///
/// Commands that write listen for SIGINT, SIGTERM and SIGHUP from then on, and stop in order.
pub fn run<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { exit::FINE };
            terminal::usage(&error);
            return Exit::of(code);
        }
    };
    cli.color.apply();
    #[cfg(feature = "remote")]
    read_remote_files();
    // What the browser shows is looked at again after a while.
    #[cfg(feature = "browse")]
    let goes_on = matches!(cli.command, Command::Browse(_));
    #[cfg(not(feature = "browse"))]
    let goes_on = false;
    let _command = (!goes_on).then(ckpt_inspect::stored::Command::begin);
    let result = match cli.command {
        Command::Inspect(args) => inspect::run(&args),
        #[cfg(feature = "browse")]
        Command::Browse(args) => browse::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Edit(args) => edit::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Scan(args) => scan::run(&args),
        #[cfg(feature = "infer")]
        Command::Infer(args) => infer::run(&args),
        #[cfg(feature = "infer")]
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "infer")]
        Command::Chat(args) => chat::run(&args),
        #[cfg(feature = "diagnose")]
        Command::Diagnose(args) => diagnose::run(&args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ckpt", &mut script);
            terminal::print(&String::from_utf8_lossy(&script)).map(|()| exit::FINE)
        }
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    match result {
        Ok(code) => Exit::of(code),
        Err(failure) => {
            terminal::failure(&failure);
            Exit::of(failure.code)
        }
    }
}

#[cfg(all(test, feature = "diagnose"))]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The headings of `--help` besides clap's own, by commands, and all options under them.
    const HEADED: [(&[&str], &str, &str); 7] = [
        (
            &["infer", "chat", "bench", "diagnose", "verify"],
            "Overriding the checkpoint's configuration",
            "head-dim num-heads max-seq-len rope-base rope-scaling bitlinear-attn bitlinear-ffn bitlinear-per-channel quantization-eps norm-eps attn-cap final-cap",
        ),
        (&["infer", "chat"], "Choosing tokens", "temperature top-k top-p min-p repetition-penalty seed"),
        (&["infer"], "Perplexity", "perplexity context stride"),
        (
            &["verify"],
            "Comparing outputs",
            "outputs prompts tokenizer max-kl min-agreement max-perplexity-ratio max-difference threads embeddings fast",
        ),
        (
            &["edit"],
            "Edits, done in this order",
            "strip-optimizer drop keep rename average last weights ema lora adapter-of perplexity",
        ),
        (
            &["edit"],
            "Writing",
            "force root keep-optimizer dtype names ternary packed max-shard-size quant embed exact-scales latent tokenizer allow-incomplete no-verify",
        ),
        (&["report"], "Optimizer settings that override those in the files", "lr weight-decay accum"),
    ];

    #[test]
    fn options_stand_under_the_headings_that_are_theirs_and_colours_last() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands_mut() {
            let name = command.get_name().to_string();
            let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for arg in command.get_arguments() {
                if let (Some(heading), Some(long)) = (arg.get_help_heading(), arg.get_long()) {
                    found.entry(heading).or_default().insert(long);
                }
            }
            let meant = HEADED.iter().filter(|(commands, ..)| commands.contains(&name.as_str()));
            let meant = meant.map(|(_, heading, options)| (*heading, options.split(' ').collect()));
            assert_eq!(found, meant.collect(), "{name}");
            if name == "help" {
                continue;
            }

            let help = command.render_help().to_string();
            let options = help.split_once("\nOptions:\n").map_or("", |(_, rest)| rest);
            let options = options.split("\n\n").next().unwrap_or_default().lines();
            let options = options.filter(|line| line.trim_start().starts_with('-'));
            let last: Vec<&str> =
                options.filter_map(|line| line.split(' ').find(|word| word.starts_with("--"))).collect();
            assert!(last.ends_with(&["--color", "--help"]), "{name}: {last:?}");
        }
    }
}
