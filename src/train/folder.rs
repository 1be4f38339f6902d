//! Where a run writes to, and what lies there beside its checkpoints.

use std::path::{Path, PathBuf};

use ckpt_inspect::staged;
use ckpt_train::{RunFolder, Settings};

use super::Args;
use super::config::{self, differences, each_path};
use crate::{Failure, paths, terminal};

/// The file of a run's settings.
pub(super) const CONFIG: &str = "config.toml";
/// The file of its tokenizer.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What says more of a tokenizer, and lies next to it.
const BESIDE: [&str; 4] =
    ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"];
/// Where a new run goes.
const DEFAULT: &str = "run";

/// The folders that may be those of the checkpoint at `path`: itself, if it is one, and the one that it is in.
pub(super) fn around(path: &Path) -> impl Iterator<Item = PathBuf> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    [path.is_dir().then(|| path.to_path_buf()), Some(parent.to_path_buf())].into_iter().flatten()
}

/// The run folder of the checkpoint at `path`: one with settings and metrics.
pub(super) fn run_of(path: &Path) -> Option<PathBuf> {
    around(path).find(|folder| folder.join(CONFIG).is_file() && folder.join("metrics.jsonl").is_file())
}

/// A run folder that may be written to, and files that belong in it.
pub(super) struct Place {
    path: PathBuf,
    /// Files to copy, by their names in the folder.
    copies: Vec<(&'static str, Vec<u8>)>,
}

impl Place {
    /// The folder that the flags name: the given one, else that of the resumed checkpoint's run, else `run`.
    ///
    /// # Errors
    /// A folder with another run, or another tokenizer, cannot be written to unless it is forced.
    pub fn new(args: &Args, settings: &Settings) -> Result<Self, Failure> {
        let of_run = || run_of(args.resume.as_deref()?);
        let path = args.output.clone().or_else(of_run).unwrap_or_else(|| DEFAULT.into());
        let whole = |path: &Path| std::fs::canonicalize(path).ok();
        let from = args.resume.as_deref().and_then(whole);
        let same = from.is_some_and(|from| from.parent().map(Path::to_path_buf) == whole(&path));
        // Without a step there is no run to describe.
        let run = std::fs::metadata(path.join("metrics.jsonl")).is_ok_and(|m| m.len() > 0);
        if run && !same && !args.force {
            return Err(Failure::unwritable(format!(
                "{}: contains another run; choose another folder with -o, or use --force to write into it",
                path.display()
            )));
        }
        let mut copies = Vec::new();
        if let Some(tokenizer) = &settings.data.tokenizer {
            let folder = tokenizer.parent().unwrap_or(Path::new(""));
            let others = BESIDE.iter().map(|name| (*name, folder.join(name)));
            for (name, file) in std::iter::once((TOKENIZER, tokenizer.clone())).chain(others) {
                let Ok(bytes) = std::fs::read(&file) else { continue };
                match std::fs::read(path.join(name)) {
                    Ok(there) if there == bytes => {}
                    Ok(_) if name == TOKENIZER && !args.force => {
                        return Err(Failure::unwritable(format!(
                            "{}: contains another tokenizer than {}; choose another folder with -o, or use --force to replace it",
                            path.display(),
                            file.display()
                        )));
                    }
                    _ => copies.push((name, bytes)),
                }
            }
        }
        Ok(Place { path, copies })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder or continues in it, with `settings` as its config.toml. Settings of a run that it continues
    /// from `step` are kept under another name, if more than the last step differs.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be written.
    pub fn open(&self, settings: &Settings, step: u64) -> Result<RunFolder, Failure> {
        let folder = RunFolder::open(&self.path)?;
        for (name, bytes) in &self.copies {
            staged::write(&self.path.join(name), bytes, true)?;
        }
        let config = self.path.join(CONFIG);
        if config.is_file() {
            let kept = match config::read(&config) {
                Ok((before, _)) => {
                    !differences(&before.clone().with(|s| s.steps = settings.steps), settings).is_empty()
                }
                Err(_) => true,
            };
            if kept {
                let old = self.path.join(format!("config-until-{step:06}.toml"));
                std::fs::copy(&config, &old)
                    .map_err(|e| Failure::unwritable(format!("{}: cannot be written: {e}", old.display())))?;
                terminal::note(&format!(
                    "{} has other settings; it is kept as {}",
                    terminal::path(&config),
                    terminal::path(&old)
                ));
            }
        }
        let text = toml::to_string(&self.portable(settings))
            .map_err(|e| Failure::usage(format!("settings: {e}")))?;
        folder.config(&text)?;
        Ok(folder)
    }

    /// `settings` with paths that mean the same from any working directory, and the tokenizer that is in the folder.
    fn portable(&self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        each_path(&mut settings, |path| {
            if let Ok(whole) = paths::absolute(path) {
                *path = whole;
            }
        });
        settings.data.tokenizer = settings.data.tokenizer.map(|_| TOKENIZER.into());
        settings
    }
}
