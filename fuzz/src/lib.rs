//! What must hold for arbitrary bytes: they give a checkpoint or a typed error, and whatever a user does with that
//! checkpoint ends, with a result or a typed error.
//!
//! cargo-fuzz runs each target on bytes that it generates; `convert/tests/fuzz.rs` runs a number of cases, on stable.

pub mod mutate;
pub mod seeds;

use std::path::Path;

use ckpt_convert::{Agreement, Control, Error, Gguf, Options, Plan, Target as Output, verify_written, write};
use ckpt_inspect::pickle::Pickle;
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::salvage::{Fill, salvage};
use ckpt_inspect::vocabulary::Vocabulary;
use ckpt_inspect::{
    Checkpoint, DType, Damage, Notice, OpenOptions, Result, describe, diff, judge, open, open_bytes,
    open_with, staged,
};
use seeds::Seed;

/// Something to run on bytes, and the initial bytes.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Fails, by a panic, where something does not hold.
    pub run: fn(&[u8]),
    /// Valid files, and files with known kinds of errors.
    pub seeds: fn() -> Vec<Seed>,
}

/// Every target.
pub const TARGETS: [Target; 4] = [
    Target { name: "checkpoint", run: checkpoint, seeds: seeds::checkpoints },
    Target { name: "scan", run: scan, seeds: seeds::checkpoints },
    Target { name: "pickle", run: pickle, seeds: seeds::pickles },
    Target { name: "vocabulary", run: vocabulary, seeds: seeds::vocabularies },
];

/// The bytes as a checkpoint of any format: opened, measured, judged, compared with itself, recovered and converted.
pub fn checkpoint(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("fuzzed");
    std::fs::write(&path, bytes).unwrap();
    let opened = open_bytes(&path, bytes.to_vec());
    // In memory they are what they are in a file.
    assert_eq!(listed(&opened), listed(&open(&path)));
    let Ok(mut checkpoint) = opened else { return };
    look(&checkpoint);
    convert(&checkpoint, pick(bytes), &folder.path().join("copy"));
    keep(&path, pick(bytes), &folder.path().join("kept"));
    let damaged = checkpoint.verify_checksums();
    assert!(damaged.is_empty() || checkpoint.is_damaged());
    measure(&checkpoint);
    let same = diff::diff(&checkpoint, &checkpoint, diff::Options::default(), &|_| true).unwrap();
    assert!(same.settings.is_empty() && same.metadata.is_empty(), "{same:?}");
    for tensor in &same.tensors {
        // A tensor without data is not damaged, and cannot be compared.
        let alike = matches!(tensor.status, diff::Status::Same | diff::Status::Unreadable);
        assert!(alike, "it differs from itself: {tensor:?}");
    }
    drop(checkpoint);
    recover(&path, &folder.path().join("recovered"), pick(bytes));
    // An output that failed leaves nothing behind.
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let made = ["fuzzed", "copy", "kept", "recovered"];
    assert!(left.iter().all(|name| made.iter().any(|made| name == made)), "{left:?}");
}

type Listed<'c> = (Vec<String>, &'c Option<Damage>, &'c [Notice], &'c [String]);

/// What is known of a file, or why it cannot be opened.
fn listed(opened: &Result<Checkpoint>) -> std::result::Result<Listed<'_>, String> {
    match opened {
        Ok(checkpoint) => {
            let tensors = checkpoint.tensors.iter().map(|tensor| format!("{tensor:?}")).collect();
            Ok((tensors, &checkpoint.damage, &checkpoint.warnings, &checkpoint.globals))
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Err(error.to_string())
        }
    }
}

/// A folder to write into, in memory where there is such a place: what is written is synced to the disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A number that the bytes choose.
fn pick(bytes: &[u8]) -> usize {
    bytes.iter().fold(bytes.len(), |sum, &byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)))
}

/// What is known without reading tensors.
fn look(checkpoint: &Checkpoint) {
    checkpoint.parameters();
    checkpoint.sharing(8);
    if let Some(Ok(header)) = checkpoint.gguf_header() {
        let _ = Vocabulary::of_header(&header);
    }
    let _ = Vocabulary::embedded(checkpoint);
    for tensor in &checkpoint.tensors {
        // Of several of one name, which keys of different types make, the first is found.
        assert_eq!(checkpoint.tensor(&tensor.name).unwrap().name, tensor.name);
        checkpoint.copied_bytes(tensor);
    }
}

/// A record says the same after a way through JSON.
fn measure(checkpoint: &Checkpoint) {
    let mut options = ckpt_inspect::Options::default();
    options.sha256 = true;
    let mut record = describe(checkpoint, options, &|_| ());
    judge(&mut record, &Default::default());
    let text = serde_json::to_string(&record).unwrap();
    let again: CheckpointRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}

/// Every way to write that is tried: all targets, and settings that take other paths.
fn ways() -> Vec<Options> {
    let mut ways: Vec<Options> = Output::all().map(Options::new).collect();
    let ternary = Some(globset::Glob::new("*").unwrap().compile_matcher());
    ways.extend([
        Options::new(Output::Torch).with(|o| (o.dtype, o.keep_optimizer) = (Some(DType::F16), true)),
        Options::new(Output::I2s).with(|o| o.ternary = ternary),
        Options::new(Output::Hf { packed: true }),
        Options::new(Output::Gguf(Gguf::default().with(|g| g.latent = true))),
        Options::new(Output::Gguf(Gguf::default())).with(|o| o.keep_quantized = true),
    ]);
    ways.into_iter().map(|way| way.with(|o| o.allow_incomplete = true)).collect()
}

/// Written in the way that `choice` numbers, whole or not at all; what was written says the same.
fn convert(checkpoint: &Checkpoint, choice: usize, to: &Path) {
    let ways = ways();
    written(checkpoint, &ways[choice % ways.len()], to);
}

/// The tensors of quantized weights written as the file has them.
fn keep(path: &Path, choice: usize, to: &Path) {
    let mut stored = OpenOptions::default();
    stored.stored = true;
    let Ok(checkpoint) = open_with(path, &stored) else { return };
    let target = [Output::SafeTensors, Output::Hf { packed: false }, Output::Torch][choice % 3];
    let options = Options::new(target).with(|o| (o.keep_quantized, o.allow_incomplete) = (true, true));
    written(&checkpoint, &options, to);
}

fn written(checkpoint: &Checkpoint, options: &Options, to: &Path) {
    let Ok(mut plan) = Plan::new(checkpoint, options) else { return };
    let stop = Default::default();
    match write(&mut plan, options, to, Control::new(&|_| (), &stop)) {
        Ok(_) => {
            let report = match verify_written(&plan, to) {
                Ok(report) => report,
                // What was copied as it was may be nothing to compute with: codes times an infinite scale.
                Err(Error::Read(_)) => return,
                Err(error) => panic!("{:?}: {error}", options.target),
            };
            // Bytes beside a scale become a packed matrix where the copy has what says so and the source had not. That
            // is what a comparison is for.
            let explained = |t: &Agreement| matches!(t.dtypes, [DType::U8 | DType::I8, DType::Ternary(_)]);
            assert!(report.failures().all(explained), "{:?}: {report:#?}", options.target);
            assert!(report.agrees() || report.failures().count() > 0, "{:?}: {report:#?}", options.target);
        }
        Err(error) => {
            let foreseen = match &error {
                Error::Read(_) | Error::Target { .. } | Error::Source { .. } => true,
                Error::Output(e) => matches!(e, staged::Error::NoSpace { .. } | staged::Error::Write { .. }),
                _ => false,
            };
            assert!(foreseen, "{error}");
            assert!(!to.exists(), "{error}");
        }
    }
}

/// What is whole of the file, written; the rest filled.
fn recover(path: &Path, to: &Path, choice: usize) {
    let Ok(mut found) = salvage(path, &OpenOptions::default()) else { return };
    let lost = found.holes().count();
    let fill = [Fill::Zeros, Fill::Nan][choice % 2];
    assert!(found.fill(fill) <= lost);
    found.close_gaps();
    serde_json::to_string(&found.losses).unwrap();
    convert(&found.checkpoint, choice, to);
}

/// The bytes as a file that somebody is about to load.
pub fn scan(bytes: &[u8]) {
    let folder = folder();
    let path = folder.path().join("fuzzed");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(found) = ckpt_inspect::scan::scan(&path, &Default::default()) {
        let worst = found.findings.iter().map(|finding| finding.severity).max();
        assert!(found.severity() >= worst);
        serde_json::to_string(&found).unwrap();
    }
}

/// The bytes as a pickle.
pub fn pickle(bytes: &[u8]) {
    if let Ok(pickle) = Pickle::parse(bytes) {
        assert!(pickle.globals.len() <= bytes.len());
    }
}

/// The bytes as a tokenizer's file of each kind.
pub fn vocabulary(bytes: &[u8]) {
    let folder = folder();
    for name in ["tokenizer.json", "tokenizer.model", "vocab.json"] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        if let Ok(vocabulary) = Vocabulary::read(&path) {
            vocabulary.to_keys();
        }
        std::fs::remove_file(&path).unwrap();
    }
}
