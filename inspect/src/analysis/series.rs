//! Which checkpoints are of one run: those of one folder and network whose steps and names say so. A folder of models
//! that were never one run, even of the same network, is as many runs of one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::group::without_state_dict;
use crate::record::CheckpointRecord;
use crate::run::Aside;
use crate::step_from_path;
use crate::tensor::Group;

/// What identifies a network: names, without the key of the state dict, and shapes of its matrices, sorted.
pub type Network = Vec<(String, Vec<u64>)>;

/// The network that `record` is a checkpoint of; empty when it has no matrices.
pub fn network(record: &CheckpointRecord) -> Network {
    let mut all: Network = record
        .tensors
        .iter()
        .filter(|t| t.group == Group::Weights && t.shape.len() >= 2)
        .map(|t| (without_state_dict(&t.name).to_string(), t.shape.clone()))
        .collect();
    all.sort();
    all
}

/// `records` by folder and run, in the order of folders and networks.
pub(crate) fn runs(records: Vec<CheckpointRecord>) -> Vec<(PathBuf, Vec<CheckpointRecord>)> {
    let mut places: BTreeMap<(PathBuf, Network), Vec<CheckpointRecord>> = BTreeMap::new();
    for record in records {
        places.entry((folder(Path::new(&record.path)), network(&record))).or_default().push(record);
    }
    let mut all = Vec::with_capacity(places.len());
    for ((folder, _), alike) in places {
        all.extend(apart(alike).into_iter().map(|run| (folder.clone(), run)));
    }
    all
}

/// The runs among checkpoints of one network in one folder.
fn apart(alike: Vec<CheckpointRecord>) -> Vec<Vec<CheckpointRecord>> {
    if alike.len() == 1 {
        return vec![alike];
    }
    type Named = (Name, CheckpointRecord);
    let mut by_stem: BTreeMap<String, Vec<Named>> = BTreeMap::new();
    for record in alike {
        let name = Name::of(&record);
        by_stem.entry(name.stem()).or_default().push((name, record));
    }
    let (mut runs, alone): (Vec<Vec<Named>>, Vec<_>) = by_stem.into_values().partition(|m| is_run(m));
    // `tiny-1.pt`, `tiny-2.pt`…: numbers that grow with the steps count them.
    let mut by_words: BTreeMap<Vec<String>, Vec<Named>> = BTreeMap::new();
    for member in alone.into_iter().flatten() {
        by_words.entry(member.0.words.clone()).or_default().push(member);
    }
    let (counted, alone): (Vec<_>, Vec<_>) = by_words.into_values().partition(|m| counts_steps(m));
    runs.extend(counted);
    // `best.pt` is of the only run there is.
    let (nameless, alone): (Vec<Named>, Vec<Named>) =
        alone.into_iter().flatten().partition(|(name, _)| runs.len() == 1 && name.words.is_empty());
    if let [run] = runs.as_mut_slice() {
        run.extend(nameless);
    }
    let records = |run: Vec<Named>| run.into_iter().map(|(_, record)| record).collect();
    runs.into_iter().map(records).chain(alone.into_iter().map(|(_, record)| vec![record])).collect()
}

/// Whether checkpoints whose names differ in counts alone are of one run: their steps differ, or none is known and
/// the names count instead.
fn is_run(members: &[(Name, CheckpointRecord)]) -> bool {
    let steps: BTreeSet<u64> = members.iter().filter_map(|(_, r)| r.step).collect();
    if steps.is_empty() {
        let counts: BTreeSet<&Vec<u64>> =
            members.iter().filter(|(n, _)| !n.counts.is_empty()).map(|(n, _)| &n.counts).collect();
        return members.len() > 1 && counts.len() == members.len();
    }
    // Of one step may be `best.pt` and `last.ckpt` too, but not most of them.
    let numbered = members.iter().filter(|(n, r)| r.step.is_some() && n.is_numbered).count();
    steps.len() > 1 && numbered <= 2 * steps.len()
}

/// Whether the numbers in the names of three or more grow as their steps do.
fn counts_steps(members: &[(Name, CheckpointRecord)]) -> bool {
    let mut known: Vec<(&Vec<u64>, u64)> =
        members.iter().filter_map(|(n, r)| Some((&n.numbers, r.step?))).collect();
    known.sort();
    members.len() > 2
        && known.len() == members.len()
        && known.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1)
}

/// Words that say which of its run's checkpoints a file is, and with them the number behind: `epoch=3`.
const COUNTING: [&str; 18] = [
    "step",
    "steps",
    "epoch",
    "epochs",
    "ep",
    "e",
    "s",
    "it",
    "iter",
    "iters",
    "iteration",
    "iterations",
    "global",
    "tokens",
    "loss",
    "val",
    "valid",
    "acc",
];
/// Words that say nothing about which run a checkpoint is of.
const PLAIN: [&str; 24] = [
    "ckpt",
    "checkpoint",
    "model",
    "models",
    "pytorch",
    "weights",
    "net",
    "network",
    "state",
    "dict",
    "best",
    "last",
    "latest",
    "final",
    "end",
    "pt",
    "pth",
    "bin",
    "tar",
    "safetensors",
    "gguf",
    "npz",
    "index",
    "json",
];

/// The name of a checkpoint, in parts.
struct Name {
    /// Words that tell it from other runs, in order.
    words: Vec<String>,
    /// Numbers behind them.
    numbers: Vec<u64>,
    /// Numbers that count: of steps, of epochs.
    counts: Vec<u64>,
    /// Whether there is any number in it.
    is_numbered: bool,
}

impl Name {
    fn of(record: &CheckpointRecord) -> Name {
        let path = Path::new(&record.path);
        let own = if is_in_folder_of_its_own(path) { path.parent().unwrap_or(path) } else { path };
        let text = own.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let parts = parts(&text);
        let is_counting = |part: Option<&&str>| part.is_some_and(|p| COUNTING.contains(p));
        let is_number =
            |part: Option<&&str>| part.is_some_and(|p| p.starts_with(|c: char| c.is_ascii_digit()));
        let (mut words, mut numbers, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        let mut before: Option<&str> = None;
        for (i, part) in parts.iter().enumerate() {
            if !is_number(Some(part)) {
                before = Some(part);
                if !COUNTING.contains(part) && !PLAIN.contains(part) {
                    words.push(part.to_string());
                }
                continue;
            }
            // A number that no file needs is as good as any other.
            let number = part.parse().unwrap_or(u64::MAX);
            let is_unit = is_counting(parts.get(i + 1)) && !is_number(parts.get(i + 2));
            if is_unit || is_counting(before.as_ref()) || record.step == Some(number) {
                counts.push(number);
            } else if before.is_some_and(|word| !PLAIN.contains(&word)) {
                numbers.push(number);
            }
        }
        Name { words, numbers, counts, is_numbered: parts.iter().any(|p| is_number(Some(p))) }
    }

    /// What is left of it without what counts.
    fn stem(&self) -> String {
        format!("{:?} {:?}", self.words, self.numbers)
    }
}

/// Runs of letters and runs of digits in `text`.
fn parts(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric())
        .flat_map(|word| {
            let mut parts = Vec::new();
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let digit = first.is_ascii_digit();
                let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
                parts.push(&rest[..end]);
                rest = &rest[end..];
            }
            parts
        })
        .collect()
}

/// `checkpoints` by step, one of each, and the others: of several, the one whose name tells the step is the run's.
pub(crate) fn in_order(mut checkpoints: Vec<CheckpointRecord>) -> (Vec<CheckpointRecord>, Vec<Aside>) {
    checkpoints.sort_by_cached_key(|r| {
        let is_named = r.step.is_some() && step_from_path(Path::new(&r.path)) == r.step;
        (r.step.is_none(), r.step, !is_named, natural(&r.path), r.path.clone())
    });
    let mut series: Vec<CheckpointRecord> = Vec::with_capacity(checkpoints.len());
    let mut aside = Vec::new();
    for record in checkpoints {
        match series.last() {
            Some(last) if record.step.is_some() && last.step == record.step => {
                aside.push(Aside { record, same_step_as: series.len() - 1 });
            }
            _ => series.push(record),
        }
    }
    (series, aside)
}

/// Numbers in `path` by value: epoch 2 before epoch 10.
fn natural(path: &str) -> Vec<(u64, String)> {
    parts(path).into_iter().map(|part| (part.parse().unwrap_or(u64::MAX), part.to_string())).collect()
}

/// The folder that holds the run: `checkpoint-500/` and its like hold one checkpoint each.
fn folder(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new(""));
    match parent.parent() {
        Some(above) if is_in_folder_of_its_own(path) => above.to_path_buf(),
        _ => parent.to_path_buf(),
    }
}

/// Whether the folder's name tells the step, and the file's own does not.
fn is_in_folder_of_its_own(path: &Path) -> bool {
    let own = |p: &Path| p.file_name().and_then(|n| step_from_path(Path::new(n)));
    path.parent()
        .is_some_and(|parent| parent.parent().is_some() && own(path).is_none() && own(parent).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_in_the_folder_above_those_of_single_checkpoints() {
        for (path, run) in [
            ("runs/a/step-100.pt", "runs/a"),
            ("runs/a/checkpoint-500", "runs/a"),
            ("runs/a/checkpoint-500/model.safetensors", "runs/a"),
            ("a-2000steps/step-100.pt", "a-2000steps"),
            ("step-100.pt", ""),
        ] {
            assert_eq!(folder(Path::new(path)), Path::new(run), "{path}");
        }
    }

    /// Names of the files of each run, for checkpoints of one network with these steps.
    fn told_apart(files: &[(&str, Option<u64>)]) -> Vec<Vec<String>> {
        let record = |&(name, step): &(&str, Option<u64>)| {
            let mut record = CheckpointRecord::default();
            (record.path, record.step) = (format!("zoo/{name}"), step);
            record
        };
        let mut all: Vec<Vec<String>> = runs(files.iter().map(record).collect())
            .into_iter()
            .map(|(_, run)| {
                let (series, aside) = in_order(run);
                let names = series.into_iter().chain(aside.into_iter().map(|a| a.record));
                names.map(|r| r.path.trim_start_matches("zoo/").to_string()).collect()
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn what_steps_and_names_say_is_one_run() {
        let run = |files: &[(&str, Option<u64>)]| {
            let apart = told_apart(files);
            assert_eq!(apart.len(), 1, "{apart:?}");
            apart.into_iter().next().unwrap()
        };
        let named = [("step-100.pt", Some(100)), ("best.pt", Some(100)), ("step-50.pt", Some(50))];
        assert_eq!(run(&named), ["step-50.pt", "step-100.pt", "best.pt"]);
        run(&[
            ("checkpoint-500/model.safetensors", Some(500)),
            ("checkpoint-1000/model.safetensors", Some(1000)),
        ]);
        run(&[
            ("epoch=1-step=700.ckpt", Some(700)),
            ("epoch=2-step=1400.ckpt", Some(1400)),
            ("last.ckpt", Some(1400)),
        ]);
        run(&[("tiny_500steps.pt", Some(500)), ("tiny_1000steps.pt", Some(1000)), ("final.pt", None)]);
        run(&[("best.pt", Some(300)), ("last.pt", Some(900))]);
        run(&[("tiny-0500.pt", Some(500)), ("tiny-1000.pt", Some(1000))]);
        run(&[("net3-1.pt", Some(7)), ("net3-2.pt", Some(14)), ("net3-3.pt", Some(21))]);
        assert_eq!(
            run(&[("epoch_10.pt", None), ("epoch_2.pt", None), ("epoch_1.pt", None)]),
            ["epoch_1.pt", "epoch_2.pt", "epoch_10.pt"]
        );
    }

    #[test]
    fn several_runs_in_one_folder_stay_apart() {
        let files = [
            ("a-step-1.pt", 1),
            ("a-step-2.pt", 2),
            ("b-step-1.pt", 1),
            ("b-step-2.pt", 2),
            ("ema-step-2.pt", 2),
        ];
        let files = files.map(|(name, step)| (name, Some(step)));
        assert_eq!(
            told_apart(&files),
            [vec!["a-step-1.pt", "a-step-2.pt"], vec!["b-step-1.pt", "b-step-2.pt"], vec!["ema-step-2.pt"]]
        );
        let seeds = [
            ("seed1-step10.pt", 10),
            ("seed1-step20.pt", 20),
            ("seed2-step10.pt", 10),
            ("seed2-step20.pt", 20),
        ];
        assert_eq!(told_apart(&seeds.map(|(name, step)| (name, Some(step)))).len(), 2);
    }

    #[test]
    fn models_that_are_no_run_stay_apart() {
        for files in [
            [("cat.pt", None), ("dog.pt", None), ("bird.pt", None)],
            [("cat.pt", Some(1000)), ("dog.pt", Some(2000)), ("bird.pt", Some(1500))],
            [("model-1.pt", None), ("model-2.pt", None), ("model-3.pt", None)],
            [("model-1.pt", Some(1000)), ("model-2.pt", Some(1000)), ("model-3.pt", Some(1000))],
            [("seed1.pt", Some(900)), ("seed2.pt", Some(1000)), ("seed3.pt", Some(800))],
            [("best.pt", None), ("last.pt", None), ("9.pt", None)],
        ] {
            assert_eq!(told_apart(&files).len(), 3, "{files:?}");
        }
    }
}
