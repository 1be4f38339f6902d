//! From the paths on the command line to records: globs and folders expanded, unchanged files answered from the
//! cache, the rest opened, measured and judged.

use ckpt_inspect::stored::Stored;
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use ckpt_inspect::cause::{self, Pair, PairRequest};
use ckpt_inspect::run::Run;
use ckpt_inspect::{
    Cache, Checkpoint, CheckpointRecord, DamageKind, Error, ErrorKind, I2sLayout, Listing, OpenOptions,
    Options, Storage, TensorInfo, Thresholds,
};
use ckpt_reports::Policy;
use etcetera::BaseStrategy;
use rayon::prelude::*;

use crate::paths::{self, Found};
use crate::{Failure, capture, terminal};

/// The most bytes of records in the cache folder; the oldest are removed first.
const CACHE_BYTES: u64 = 1 << 30;

/// The largest policy file that is read.
const MAX_POLICY: u64 = 1 << 20;

/// Options of every command that measures checkpoints.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// Policy file with the thresholds for verdicts and the rules that are off; by default ckpt.toml in the working
    /// directory, if there is one. Its other settings affect only `ckpt gate`.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Layout of I2_S tensors (bitnet.cpp's ternary type), which GGUF files do not record: x86, arm or rows.
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<I2sLayout>,
    /// Measure files again even if they have not changed.
    #[arg(long)]
    no_cache: bool,
}

/// The text in `path`, of at most `limit` bytes, also from a device or a pipe.
pub fn text(path: &Path, limit: u64) -> Result<String, Failure> {
    let cannot = |what: String| {
        Failure::unreadable(format!("{}: {what}", terminal::escape(&path.display().to_string())))
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(|e| cannot(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > limit {
        return Err(cannot(format!("is larger than {}; use a part of it", terminal::bytes(limit))));
    }
    String::from_utf8(bytes)
        .map_err(|e| cannot(format!("is not UTF-8 text (at byte {})", e.utf8_error().valid_up_to())))
}

impl LoadArgs {
    /// The policy of the file.
    pub fn policy(&self) -> Result<Policy, Failure> {
        let (policy, found) = self.policy_or_found()?;
        if found {
            terminal::note("using the policy in ckpt.toml");
        }
        Ok(policy)
    }

    /// The policy of the file, and whether that is the working directory's, which was not named.
    pub fn policy_or_found(&self) -> Result<(Policy, bool), Failure> {
        let default = Path::new("ckpt.toml");
        let file = match &self.policy {
            Some(file) => file.as_path(),
            None if default.is_file() => default,
            None => return Ok((Policy::default(), false)),
        };
        // An invalid policy is wrong usage, like any option.
        let text = text(file, MAX_POLICY).map_err(|failure| Failure::usage(failure.message))?;
        let policy = Policy::from_toml(&text).map_err(|e| {
            let lines: Vec<String> = e.to_string().lines().map(terminal::escape).collect();
            Failure::usage(format!("{}: {}", terminal::escape(&file.display().to_string()), lines.join("\n")))
        })?;
        Ok((policy, self.policy.is_none()))
    }

    /// How to load, with verdicts by `thresholds`.
    pub fn options(&self, describe: Options, thresholds: Thresholds) -> LoadOptions {
        let mut open = OpenOptions::i2s(self.i2s_layout);
        open.companions = true;
        LoadOptions { describe, checksum: false, cache: !self.no_cache, judged: true, thresholds, open }
    }
}

/// How to load checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// What the records contain.
    pub describe: Options,
    /// Whether to compare storages with their recorded checksums.
    pub checksum: bool,
    /// Whether records may come from and go to the cache.
    pub cache: bool,
    /// Whether records come with verdicts.
    pub judged: bool,
    /// The thresholds for verdicts.
    pub thresholds: Thresholds,
    /// Facts that files do not record.
    pub open: OpenOptions,
}

/// Every checkpoint that `paths` (files, folders, glob patterns) match, in order, without repetition.
///
/// # Errors
/// An invalid pattern is wrong usage.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<Found>, Failure> {
    let (found, skipped) = expanded(paths)?;
    tell_skipped(&skipped);
    Ok(found)
}

/// Notes which files were passed over.
pub fn tell_skipped(skipped: &[PathBuf]) {
    const TOLD: usize = 5;
    if !skipped.is_empty() {
        let told: Vec<String> = skipped.iter().take(TOLD).map(|path| terminal::path(path)).collect();
        let more = match skipped.len() - told.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        terminal::note(&format!("skipped, since no tensors are in them: {}{more}", told.join(", ")));
    }
}

/// The same as [`expand`], and the files of folders that begin like checkpoints and are none, of which it prints nothing.
pub fn expanded(paths: &[PathBuf]) -> Result<(Vec<Found>, Vec<PathBuf>), Failure> {
    let nothing = |path: &Path| {
        Error::new(ErrorKind::Unrecognised, "no checkpoint in this folder")
            .in_file(path)
            .hint("files are recognised by their content")
    };
    let skipped = RefCell::new(Vec::new());
    let list = |path: &Path| {
        let Listing { checkpoints, skipped: more, .. } = ckpt_inspect::list(path)?;
        skipped.borrow_mut().extend(more);
        Ok(checkpoints)
    };
    let found = paths::expand(paths, list, nothing, ckpt_inspect::identity)?;
    Ok((found, skipped.into_inner()))
}

/// Every file of the checkpoints at `paths`; the given path itself if its files cannot be determined.
pub fn files(paths: &[PathBuf]) -> Vec<PathBuf> {
    let of = |path: &PathBuf| ckpt_inspect::files_of(path).unwrap_or_else(|_| vec![path.clone()]);
    paths.iter().flat_map(of).collect()
}

/// Refuses `outputs` that would replace a file of the checkpoints that `paths` match.
///
/// # Errors
/// Wrong usage, also for an invalid pattern.
pub fn spare<'p>(outputs: impl IntoIterator<Item = &'p Path>, paths: &[PathBuf]) -> Result<(), Failure> {
    let outputs: Vec<&Path> = outputs.into_iter().filter(|output| output.exists()).collect();
    if outputs.is_empty() {
        return Ok(());
    }
    let found: Vec<PathBuf> = expanded(paths)?.0.into_iter().flatten().collect();
    paths::spare(outputs, || files(&found))
}

/// Refuses a damaged or incomplete checkpoint, because a copy of it would look intact.
pub fn whole(checkpoint: &Checkpoint) -> Result<(), Failure> {
    if !checkpoint.is_damaged() {
        return Ok(());
    }
    let of_tensor = |t: &TensorInfo| Some((t.damage.clone()?, t.name.clone()));
    let (what, tensor) = match (&checkpoint.damage, checkpoint.tensors.iter().find_map(of_tensor)) {
        (Some(damage), _) => (damage.clone(), None),
        (None, Some((damage, tensor))) => (damage, Some(tensor)),
        (None, None) => return Ok(()),
    };
    let mut error = Error::from(&what).in_file(&checkpoint.path);
    if let Some(tensor) = tensor {
        error = error.in_tensor(&tensor);
    }
    Err(error.hint("`ckpt recover` saves what is intact").into())
}

/// A checkpoint's path and its record, or the error that kept it from being read.
pub type Loaded = (PathBuf, Result<CheckpointRecord, Error>);

/// The records of `paths`, each with the error that kept it from being read, if one did. A progress bar shows on a
/// terminal's standard error.
pub fn records(paths: &[PathBuf], options: &LoadOptions) -> Result<Vec<Loaded>, Failure> {
    each(expand(paths)?, options, |loaded| loaded)
}

/// What `take` makes of each record of `found`, as soon as there is one; the results are in order.
///
/// # Errors
/// When the caller of a captured command stops it.
pub fn each<R: Send>(
    found: Vec<Found>,
    options: &LoadOptions,
    take: impl Fn(Loaded) -> R + Sync,
) -> Result<Vec<R>, Failure> {
    let cache = options.cache.then(cache).flatten();
    let len = |path: &PathBuf| path.stored().map_or(0, |stat| stat.bytes);
    let progress = terminal::progress(
        found.iter().flatten().map(len).sum(),
        &format!("measuring {}", ckpt_reports::text::plural(found.len(), "checkpoint")),
    );
    let taken = found
        .into_par_iter()
        .map(|found| match found {
            Ok(path) => {
                let record = load(&path, options, cache.as_ref(), &progress)?;
                Some(take((path, record)))
            }
            Err((path, error)) => Some(take((path, Err(error)))),
        })
        .collect::<Option<Vec<R>>>();
    progress.clear();
    let taken = taken.ok_or_else(capture::interrupted)?;
    if let Some(cache) = cache.filter(Cache::has_grown) {
        // A cache that cannot be pruned is no reason to fail.
        let _ = cache.prune(CACHE_BYTES);
    }
    Ok(taken)
}

/// The pairs of checkpoints of `run` whose weights must be compared to explain it, from the cache where neither has
/// changed. One that can no longer be opened is left out: the explanation then says what it lacks.
pub fn pairs(run: &Run, options: &LoadOptions) -> Vec<Pair> {
    let requests = cause::pairs_needed(run);
    let cache = options.cache.then(cache).flatten();
    let bytes = |r: &PairRequest| run.checkpoints[r.from].file_bytes + run.checkpoints[r.to].file_bytes;
    let progress = terminal::progress(
        requests.iter().map(bytes).sum(),
        &format!("comparing {}", ckpt_reports::text::plural(requests.len(), "pair")),
    );
    let compare = |request: &PairRequest| {
        let paths = [request.from, request.to].map(|c| Path::new(&run.checkpoints[c].path));
        let key = format!("pair {:?} {:?}", request.names, options.open);
        let record = cache.as_ref().and_then(|c| c.get_pair(paths, &key)).or_else(|| {
            let a = ckpt_inspect::open_with(paths[0], &options.open).ok()?;
            let b = ckpt_inspect::open_with(paths[1], &options.open).ok()?;
            let record = cause::compare(&a, &b, &request.names);
            if let Some(cache) = &cache {
                // A full or read-only cache folder costs time next time, nothing else.
                let _ = cache.put_pair(paths, &key, [&a, &b], &record);
            }
            Some(record)
        })?;
        progress.done(bytes(request));
        Some(request.answered(record))
    };
    let pairs = requests.par_iter().filter_map(compare).collect();
    progress.clear();
    pairs
}

/// The judged record of `path`; `None` when the command is to stop.
fn load(
    path: &Path,
    options: &LoadOptions,
    cache: Option<&Cache>,
    progress: &terminal::Progress,
) -> Option<Result<CheckpointRecord, Error>> {
    let stop = capture::stop().unwrap_or_default();
    // Listing headers is as fast as the cache, and checksums must be checked in the file itself.
    let cache = cache.filter(|_| options.describe.stats && !options.checksum);
    let key = key(options);
    let mut record = match cache.and_then(|c| c.get(path, &key)) {
        Some(record) => {
            progress.done(record.file_bytes);
            record
        }
        None => {
            let mut checkpoint = match ckpt_inspect::open_with(path, &options.open) {
                Ok(checkpoint) => checkpoint,
                Err(error) => return Some(Err(error)),
            };
            if options.checksum && !stop.load(Ordering::Relaxed) {
                checkpoint.verify_checksums();
            }
            let done = |bytes| progress.done(bytes);
            let record = ckpt_inspect::describe_until(&checkpoint, options.describe, &done, &stop)?;
            if let Some(error) = unanswered(&checkpoint, &record) {
                return Some(Err(error));
            }
            if let Some(cache) = cache {
                // A full or read-only cache folder costs time next time, nothing else.
                let _ = cache.put(path, &key, &checkpoint, &record);
            }
            record
        }
    };
    if options.judged {
        ckpt_inspect::judge(&mut record, &options.thresholds);
    }
    Some(Ok(record))
}

/// What a store failed to send says nothing of the file, whose `record` would call it corrupt.
fn unanswered(checkpoint: &Checkpoint, record: &CheckpointRecord) -> Option<Error> {
    let is_fetched = |tensor: &TensorInfo| tensor.storages().any(Storage::is_fetched);
    let pairs = checkpoint.tensors.iter().zip(&record.tensors);
    let mut unread = pairs
        .filter(|(tensor, measured)| measured.damage_kind == Some(DamageKind::Unread) && is_fetched(tensor));
    let (_, first) = unread.next()?;
    let why = first.damage.as_deref().unwrap_or("it cannot be read");
    let (count, all) = (1 + unread.count(), record.tensors.len());
    let what = format!("{why}; {count} of {all} tensors were not read");
    Some(Error::new(ErrorKind::Io, what).in_file(&checkpoint.path))
}

/// The judged record of `path`, if the cache has one and may be asked.
#[cfg(feature = "browse")]
pub fn cached(path: &Path, options: &LoadOptions) -> Option<CheckpointRecord> {
    let mut record = options.cache.then(cache).flatten()?.get(path, &key(options))?;
    ckpt_inspect::judge(&mut record, &options.thresholds);
    Some(record)
}

/// Stores the whole `record` of `checkpoint`, if the cache may be used.
#[cfg(feature = "browse")]
pub fn keep(checkpoint: &ckpt_inspect::Checkpoint, record: &CheckpointRecord, options: &LoadOptions) {
    if let Some(cache) = options.cache.then(cache).flatten() {
        // A full or read-only cache folder costs time next time, nothing else.
        let _ = cache.put(&checkpoint.path, &key(options), checkpoint, record);
    }
}

/// The key of records of the same file.
fn key(options: &LoadOptions) -> String {
    format!("{:?} {:?}", options.describe, options.open)
}

fn cache() -> Option<Cache> {
    cache_folder("records").map(Cache::new)
}

/// The folder called `name` in the user's cache folder.
pub fn cache_folder(name: &str) -> Option<PathBuf> {
    let base = etcetera::choose_base_strategy().ok()?.cache_dir();
    Some(base.join("ckpt").join(name))
}

/// Removes the oldest files in the cache folder called `name`, until `bytes` remain.
#[cfg(feature = "train")]
pub fn prune(name: &str, bytes: u64) {
    if let Some(folder) = cache_folder(name) {
        // A cache that cannot be pruned is no reason to fail.
        let _ = Cache::new(folder).prune(bytes);
    }
}
