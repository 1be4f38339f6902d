//! `ckpt man`: manual pages, made of what `--help` says.

use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use crate::{Failure, exit, terminal};

/// Write the manual pages of all commands into a folder.
///
/// They are called ckpt.1, ckpt-inspect.1 and so on. `man ckpt-inspect` finds them if the folder is .../man1 and ...
/// is on MANPATH. Exit code 4 when a page cannot be written.
#[derive(clap::Args)]
pub struct Args {
    /// Output folder, created if missing.
    folder: PathBuf,
    /// Replace existing pages.
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand for the whole program's `command`.
pub fn run(args: &Args, command: Command) -> Result<u8, Failure> {
    std::fs::create_dir_all(&args.folder)
        .map_err(|error| Failure::unwritable(format!("{}: {error}", args.folder.display())))?;
    let mut command = command.disable_help_subcommand(true);
    // What each command is called in its page follows from its place among the others.
    command.build();
    for command in std::iter::once(&command).chain(command.get_subcommands()) {
        let man =
            Man::new(command.clone()).source(concat!("ckpt ", env!("CARGO_PKG_VERSION"))).manual("ckpt");
        let mut page = Vec::new();
        man.render(&mut page).expect("memory takes whatever is written");
        terminal::write_file(&args.folder.join(man.get_filename()), &page, args.force)?;
    }
    Ok(exit::FINE)
}
