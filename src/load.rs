//! From the paths on the command line to records: globs and folders expanded, unchanged files answered from the
//! cache, the rest opened, measured and judged.

use std::path::{Path, PathBuf};

use ckpt_inspect::{Cache, CheckpointRecord, Error, I2sLayout, OpenOptions, Options, Thresholds};
use ckpt_reports::Policy;
use etcetera::BaseStrategy;
use rayon::prelude::*;

use crate::{Failure, terminal};

/// Room for records in the cache folder; the ones written longest ago go first.
const CACHE_BYTES: u64 = 1 << 30;

/// A policy file is text that a person wrote.
const MAX_POLICY: u64 = 1 << 20;

/// What every command takes that measures checkpoints.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// Policy file whose thresholds verdicts follow; by default ckpt.toml of the working directory, if there is one.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Layout of a GGUF file's I2_S tensors, which the file does not tell: x86, arm or rows.
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<I2sLayout>,
    /// Measure again even when a file has not changed.
    #[arg(long)]
    no_cache: bool,
}

impl LoadArgs {
    /// The policy of the file.
    pub fn policy(&self) -> Result<Policy, Failure> {
        let default = Path::new("ckpt.toml");
        let file = match &self.policy {
            Some(file) => file.as_path(),
            None if default.is_file() => default,
            None => return Ok(Policy::default()),
        };
        let cannot = |what: String| {
            let lines: Vec<String> = what.lines().map(terminal::escape).collect();
            let file = terminal::escape(&file.display().to_string());
            Failure::usage(format!("{file}: {}", lines.join("\n")))
        };
        let len = std::fs::metadata(file).map_err(|e| cannot(e.to_string()))?.len();
        if len > MAX_POLICY {
            return Err(cannot(format!("{} is too large for a policy", terminal::bytes(len))));
        }
        let text = std::fs::read_to_string(file).map_err(|e| cannot(e.to_string()))?;
        let policy = Policy::from_toml(&text).map_err(|e| cannot(e.to_string()))?;
        if self.policy.is_none() {
            terminal::note("policy from ckpt.toml");
        }
        Ok(policy)
    }

    /// How to load, with verdicts by `thresholds`.
    pub fn options(&self, describe: Options, thresholds: Thresholds) -> LoadOptions {
        let open = OpenOptions { i2s_layout: self.i2s_layout };
        LoadOptions { describe, checksum: false, cache: !self.no_cache, thresholds, open }
    }
}

/// How checkpoints are to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// What the records hold.
    pub describe: Options,
    /// Whether to compare storages with their recorded checksums.
    pub checksum: bool,
    /// Whether records may come from and go to the cache.
    pub cache: bool,
    /// What verdicts depend on.
    pub thresholds: Thresholds,
    /// What files cannot tell.
    pub open: OpenOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            describe: Options::default(),
            checksum: false,
            cache: true,
            thresholds: Thresholds::default(),
            open: OpenOptions::default(),
        }
    }
}

/// Every checkpoint that `paths` (files, folders, glob patterns) stand for, in order, without repetition.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        let text = path.to_string_lossy();
        if path.exists() || !text.contains(['*', '?', '[']) {
            found.extend(below(path)?);
            continue;
        }
        let matches = glob::glob(&text).map_err(|e| Failure::usage(format!("{text}: {e}")))?;
        let before = found.len();
        for path in matches.filter_map(Result::ok) {
            found.extend(below(&path)?);
        }
        if found.len() == before {
            return Err(Failure {
                message: format!("{text}: no file matches this pattern"),
                code: crate::exit::UNREADABLE,
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    Ok(found)
}

fn below(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let found = ckpt_inspect::find(path)?;
    if found.is_empty() {
        return Err(Failure {
            message: format!(
                "{}: no checkpoint in this folder; files are recognised by their content",
                path.display()
            ),
            code: crate::exit::UNREADABLE,
        });
    }
    Ok(found)
}

/// A path with its record, or with the error that kept it from being read.
pub type Loaded = (PathBuf, Result<CheckpointRecord, Error>);

/// The records of `paths`, each with the error that kept it from being read, if one did. A progress bar shows on a
/// terminal's standard error.
pub fn records(paths: &[PathBuf], options: &LoadOptions) -> Result<Vec<Loaded>, Failure> {
    let paths = expand(paths)?;
    let cache = options.cache.then(cache).flatten();
    let bytes: u64 = paths.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum();
    let progress = terminal::progress(bytes, &format!("measuring {} checkpoints", paths.len()));
    let loaded = paths
        .into_par_iter()
        .map(|path| {
            let len = std::fs::metadata(&path).map_or(0, |m| m.len());
            let record = load(&path, options, cache.as_ref());
            progress.done(len);
            (path, record)
        })
        .collect();
    progress.clear();
    if let Some(cache) = cache {
        // A cache that cannot be pruned is no reason to fail.
        let _ = cache.prune(CACHE_BYTES);
    }
    Ok(loaded)
}

fn load(path: &Path, options: &LoadOptions, cache: Option<&Cache>) -> Result<CheckpointRecord, Error> {
    // Header listings are as fast as the cache, and a damaged checksum must be seen in the file itself.
    let cache = cache.filter(|_| options.describe.stats && !options.checksum);
    let key = format!("{:?} {:?}", options.describe, options.open);
    let mut record = match cache.and_then(|c| c.get(path, &key)) {
        Some(record) => record,
        None => {
            let mut checkpoint = ckpt_inspect::open_with(path, &options.open)?;
            if options.checksum {
                checkpoint.verify_checksums();
            }
            let record = ckpt_inspect::describe(&checkpoint, options.describe, &|_| ());
            if let Some(cache) = cache {
                // A full or read-only cache folder costs time next time, nothing else.
                let _ = cache.put(path, &key, &checkpoint, &record);
            }
            record
        }
    };
    ckpt_inspect::judge(&mut record, &options.thresholds);
    Ok(record)
}

fn cache() -> Option<Cache> {
    let base = etcetera::choose_base_strategy().ok()?.cache_dir();
    Some(Cache::new(base.join("ckpt").join("records")))
}
