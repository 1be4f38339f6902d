//! Where a run writes to, and what lies there beside its checkpoints.

use std::path::{Path, PathBuf};

use ckpt_inspect::vocabulary::{FILE_NAMES, FileKind, Vocabulary, files_beside, read_file};
use ckpt_inspect::{staged, stored};
use ckpt_train::{RunFolder, Settings};

use super::Args;
use super::config::{self, differences, each_path};
use crate::{Failure, exit, paths, terminal};

/// The file of a run's settings.
pub(super) const CONFIG: &str = "config.toml";
/// The file of its tokenizer, unless that is SentencePiece's.
const TOKENIZER: &str = FILE_NAMES[0];
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

/// Refuses what is no checkpoint to continue from: names the last one of a run folder.
fn is_checkpoint(path: &Path) -> Result<(), Failure> {
    let is_run = path.is_dir() && run_of(path).as_deref() == Some(path);
    if is_run || (!stored::is_remote(path) && !path.exists()) {
        let folder = if is_run { path } else { path.parent().unwrap_or(Path::new("")) };
        let step = |path: PathBuf| Some((ckpt_inspect::step_from_path(&path)?, path));
        let all = std::fs::read_dir(if folder == Path::new("") { Path::new(".") } else { folder });
        let all = all.into_iter().flatten().filter_map(|entry| step(folder.join(entry.ok()?.file_name())));
        let last = all.filter(|(_, path)| path.extension().is_some_and(|e| e == "pt")).max();
        let last = last
            .map_or(String::new(), |(_, last)| format!("; the last checkpoint there is {}", last.display()));
        let what = if is_run {
            "is a run folder, and --resume takes one of its checkpoints"
        } else {
            "no such file"
        };
        return Err(Failure::new(exit::UNREADABLE, format!("{}: {what}{last}", path.display())));
    }
    Ok(())
}

/// The tokenizer of a GGUF file as Hugging Face's files, by their names.
fn of_gguf(path: &Path) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let (files, notes) = ckpt_convert::tokenizer_files(&Vocabulary::read(path)?);
    match files.is_empty() {
        false => Ok(files),
        true => Err(Failure::usage(format!(
            "{}: its tokenizer cannot be kept in the run folder: {}; give a tokenizer.json",
            path.display(),
            notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        ))),
    }
}

/// A run folder that may be written to, and files that belong in it.
pub(super) struct Place {
    path: PathBuf,
    /// Files to copy, by their names in the folder.
    copies: Vec<(String, Vec<u8>)>,
    /// Files that say more of another tokenizer, which is replaced.
    stale: Vec<PathBuf>,
    /// The tokenizer's name in the folder.
    tokenizer: &'static str,
    /// Whether what lies there is another run's.
    taken_over: bool,
}

impl Place {
    /// The folder that the flags name: the given one, else that of the resumed checkpoint's run, else `run`.
    ///
    /// # Errors
    /// A folder with another run, or another tokenizer, cannot be written to unless it is forced.
    pub fn new(args: &Args, settings: &Settings) -> Result<Self, Failure> {
        if let Some(resumed) = &args.resume {
            is_checkpoint(resumed)?;
        }
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
        let mut place = Place {
            path,
            copies: Vec::new(),
            stale: Vec::new(),
            tokenizer: TOKENIZER,
            taken_over: run && !same,
        };
        if let Some(tokenizer) = &settings.data.tokenizer {
            place.copy_tokenizer(tokenizer, args.force)?;
        }
        Ok(place)
    }

    /// Prepares to copy the tokenizer at `from`, and what lies beside it and says more of it.
    fn copy_tokenizer(&mut self, from: &Path, force: bool) -> Result<(), Failure> {
        let mut files = match FileKind::of(from)? {
            FileKind::Gguf => of_gguf(from)?,
            kind => {
                self.tokenizer = FILE_NAMES[usize::from(kind == FileKind::SentencePiece)];
                vec![(self.tokenizer.to_string(), read_file(from)?)]
            }
        };
        let folder = from.parent().unwrap_or(Path::new(""));
        if files.len() == 1 {
            for name in files_beside(folder) {
                let bytes = read_file(&folder.join(&name))?;
                files.push((name, bytes));
            }
        }
        // The folder's own, of whatever kind, is what other commands find.
        let rival = FILE_NAMES
            .iter()
            .map(|name| self.path.join(name))
            .find(|path| path.is_file() && !path.ends_with(self.tokenizer) && path.parent() != from.parent());
        let mut other = rival.is_some();
        if let Some(rival) = rival.filter(|_| !force) {
            return Err(Failure::unwritable(format!(
                "{}: is another tokenizer than {}; choose another folder with -o, or use --force to replace it",
                rival.display(),
                from.display()
            )));
        }
        for (name, bytes) in &files {
            match std::fs::read(self.path.join(name)) {
                Ok(there) if there == *bytes => {}
                Ok(_) if name == self.tokenizer && !force => {
                    return Err(Failure::unwritable(format!(
                        "{}: contains another tokenizer than {}; choose another folder with -o, or use --force to replace it",
                        self.path.display(),
                        from.display()
                    )));
                }
                Ok(_) => {
                    other |= name == self.tokenizer;
                    self.copies.push((name.clone(), bytes.clone()));
                }
                Err(_) => self.copies.push((name.clone(), bytes.clone())),
            }
        }
        let is_copied = |name: &str| files.iter().any(|(copied, _)| copied == name);
        let tokenizers = FILE_NAMES.map(str::to_string);
        let all = files_beside(&self.path).into_iter().chain(tokenizers);
        let all = all.filter(|name| other && !is_copied(name));
        self.stale = all.map(|name| self.path.join(name)).filter(|path| path.is_file()).collect();
        Ok(())
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
        let mut folder = RunFolder::open(&self.path)?;
        if self.taken_over {
            folder.take_over();
        }
        for path in &self.stale {
            std::fs::remove_file(path)
                .map_err(|e| Failure::unwritable(format!("{}: cannot be removed: {e}", path.display())))?;
        }
        for (name, bytes) in &self.copies {
            let path = self.path.join(name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|e| Failure::unwritable(format!("{}: cannot be made: {e}", folder.display())))?;
            }
            staged::write(&path, bytes, true)?;
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
                let text = std::fs::read(&config)
                    .map_err(|e| Failure::unreadable(format!("{}: cannot be read: {e}", config.display())))?;
                staged::write(&old, &text, true)?;
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
        settings.data.tokenizer = settings.data.tokenizer.map(|_| self.tokenizer.into());
        settings
    }
}
