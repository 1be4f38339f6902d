//! The rules that the gate finds by: what each refuses, and what to do about it.

use serde::{Deserialize, Serialize};

/// Whether a finding refuses a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// It does not pass.
    Error,
    /// It may pass; something could not be checked.
    Warning,
}

/// What can be found. Identifiers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Rule {
    UnreadableFile,
    DamagedFile,
    WrongStep,
    NothingJudged,
    NotMeasured,
    Incomplete,
    Contradiction,
    Doubt,
    CorruptTensor,
    CorruptOptimizer,
    UnhealthyTensor,
    TooManyDead,
    TooFewHealthy,
    TensorVanished,
    ShapeChanged,
    StdShrunk,
    NewlyDead,
    VerdictWorse,
    FailedDiagnosis,
}

impl Rule {
    /// Every rule, file-level ones first.
    pub const ALL: [Rule; 19] = [
        Rule::UnreadableFile,
        Rule::DamagedFile,
        Rule::WrongStep,
        Rule::NothingJudged,
        Rule::NotMeasured,
        Rule::Incomplete,
        Rule::Contradiction,
        Rule::Doubt,
        Rule::CorruptTensor,
        Rule::CorruptOptimizer,
        Rule::UnhealthyTensor,
        Rule::TooManyDead,
        Rule::TooFewHealthy,
        Rule::TensorVanished,
        Rule::ShapeChanged,
        Rule::StdShrunk,
        Rule::NewlyDead,
        Rule::VerdictWorse,
        Rule::FailedDiagnosis,
    ];

    /// The identifier, such as `unhealthy-tensor`, what it refuses in one sentence, and what to do about it.
    fn row(self) -> [&'static str; 3] {
        match self {
            Rule::UnreadableFile => [
                "unreadable-file",
                "The file cannot be opened as a checkpoint.",
                "Check the path and its permissions. A Git LFS pointer is fetched with `git lfs pull`; a file of another \
                 kind is no checkpoint.",
            ],
            Rule::DamagedFile => [
                "damaged-file",
                "The file is cut short, bytes differ from their recorded checksum, or the format's own library refuses it.",
                "Copy or download the file again. `ckpt recover` saves what is intact.",
            ],
            Rule::WrongStep => [
                "wrong-step",
                "The checkpoint is not of the required training step.",
                "Choose the checkpoint of that step, or change require_step or min_step in the policy.",
            ],
            Rule::NothingJudged => [
                "nothing-judged",
                "No weight matrix could be judged, or none of a layer.",
                "See with `ckpt inspect` what the file holds. It may be no model, its layers may be quantized in a way that is \
                 not read (judge the model before it is quantized), or the policy may ignore all of its tensors.",
            ],
            Rule::NotMeasured => [
                "not-measured",
                "Weight matrices are of a type that is not measured, or quantized in a way that is not read.",
                "The checkpoint passes; these weights were not looked at. Judge the checkpoint before it is quantized.",
            ],
            Rule::Incomplete => [
                "incomplete",
                "Layers or weights are missing that the other layers or config.json imply.",
                "Save the model again with all of its layers, with the config.json that belongs to it.",
            ],
            Rule::Contradiction => [
                "contradiction",
                "The index and the shards of a set disagree, or there are files that no index names.",
                "Remove files of an earlier save from the folder, or save the set again.",
            ],
            Rule::Doubt => [
                "doubt",
                "The file has bytes that belong to no tensor, or a part of what was saved is gone, such as an optimizer's files.",
                "The checkpoint passes; what is there of the weights was judged. Copy it again if it should be complete.",
            ],
            Rule::CorruptTensor => [
                "corrupt-tensor",
                "A tensor holds NaN, infinity or values beyond reason, or its bytes are missing or damaged.",
                "Return to an earlier checkpoint, or copy the file again if its bytes are damaged. `ckpt report` on the run's \
                 checkpoints tells when it began.",
            ],
            Rule::CorruptOptimizer => [
                "corrupt-optimizer",
                "The optimizer's state holds NaN or infinity, or is missing bytes.",
                "Resume from an earlier checkpoint, or with a new optimizer.",
            ],
            Rule::UnhealthyTensor => [
                "unhealthy-tensor",
                "A weight matrix is worse than allowed.",
                "`ckpt report --explain` on the run's checkpoints tells what it died of. Where it is meant so, name it in the \
                 policy, or accept it with --write-accepted.",
            ],
            Rule::TooManyDead => [
                "too-many-dead",
                "More weight matrices are dead than allowed.",
                "Return to an earlier checkpoint, or raise max_dead in the policy.",
            ],
            Rule::TooFewHealthy => [
                "too-few-healthy",
                "Fewer weight matrices are healthy than required.",
                "Return to an earlier checkpoint, or lower min_healthy in the policy.",
            ],
            Rule::TensorVanished => [
                "tensor-vanished",
                "A weight of the baseline is missing.",
                "Save the model with all of its weights, or set allow_missing in the policy.",
            ],
            Rule::ShapeChanged => [
                "shape-changed",
                "A weight has another shape than in the baseline.",
                "Compare with a checkpoint of the same configuration.",
            ],
            Rule::StdShrunk => [
                "std-shrunk",
                "The standard deviation of a weight matrix fell too far below the baseline's.",
                "Weight decay may be outweighing the gradient: `ckpt report --explain` on the run's checkpoints tells. \
                 max_shrink in the policy says how far it may fall.",
            ],
            Rule::NewlyDead => [
                "newly-dead",
                "Rows or columns of a ternary matrix died that were alive in the baseline.",
                "max_new_dead in the policy says how many may die between checkpoints that lie far apart.",
            ],
            Rule::VerdictWorse => [
                "verdict-worse",
                "A weight matrix is judged worse than in the baseline.",
                "Return to the baseline, or set allow_worse in the policy.",
            ],
            Rule::FailedDiagnosis => [
                "failed-diagnosis",
                "The model fails a step of the diagnosis, or cannot be run.",
                "`ckpt diagnose` shows what the model wrote.",
            ],
        }
    }

    /// The identifier, such as `unhealthy-tensor`.
    pub fn id(self) -> &'static str {
        self.row()[0]
    }

    /// What it refuses, in one sentence.
    pub fn summary(self) -> &'static str {
        self.row()[1]
    }

    /// What to do about its findings.
    pub fn help(self) -> &'static str {
        self.row()[2]
    }

    /// Whether its findings refuse a checkpoint.
    pub fn severity(self) -> Severity {
        match self {
            Rule::NotMeasured | Rule::Doubt => Severity::Warning,
            _ => Severity::Error,
        }
    }
}
