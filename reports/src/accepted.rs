//! Known findings that the gate lets pass: a file of them that it writes and people review, so that only what is new
//! refuses a checkpoint.

use std::collections::HashMap;
use std::path::Path;

use ckpt_inspect::{Finding as Why, Verdict};
use globset::GlobMatcher;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::gate::{Checked, Finding, Outcome, Rule, Severity, Status};
use crate::location::relative_path;

/// One known finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Known {
    /// The checkpoint's path from the working directory on; a `*` in it stands for any text.
    pub checkpoint: String,
    /// Which rule found it.
    pub rule: Rule,
    /// The tensor concerned, by its name in the file; `None` for the checkpoint as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// The tensor's verdict: a worse one is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What the tensor has, by the names of the rules of verdicts: anything else is new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// What is wrong with the checkpoint as a whole: anything else is new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<Why>,
    /// What was measured of the checkpoint as a whole: another value is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// What was wrong, in words, for whoever reads the file.
    #[serde(default)]
    pub message: String,
}

/// Findings that are known.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    entries: Vec<(Known, Option<GlobMatcher>)>,
}

/// Why a text does not hold known findings: the line, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct AcceptedError(String);

/// The whole of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    accepted: Vec<Known>,
}

impl Accepted {
    /// The findings in a file's text.
    ///
    /// # Errors
    /// For text that is not JSON, unknown keys and rules, and invalid patterns.
    pub fn from_json(text: &str) -> Result<Self, AcceptedError> {
        let file: File = serde_json::from_str(text).map_err(|e| AcceptedError(e.to_string()))?;
        let compiled = |known: Known| {
            let glob = known.checkpoint.contains('*').then(|| globset::Glob::new(&known.checkpoint));
            let glob = glob.transpose().map_err(|e| AcceptedError(e.to_string()))?;
            Ok((known, glob.map(|glob| glob.compile_matcher())))
        };
        let entries = file.accepted.into_iter().map(compiled).collect::<Result<_, _>>()?;
        Ok(Accepted { entries })
    }

    /// Everything in `outcome` that refuses a checkpoint or was accepted already, and can be known: not what could not be
    /// read, judged or run. `root` is the working directory.
    pub fn of(outcome: &Outcome, root: Option<&Path>) -> Self {
        let mut known: Vec<Known> = Vec::new();
        for checked in &outcome.checkpoints {
            let checkpoint = relative_path(&checked.path, root);
            let begin = known.len();
            for finding in checked.findings.iter().chain(&checked.accepted).filter(|f| can_be_known(f)) {
                let (mut kinds, mut because, mut measured) = (Vec::new(), Vec::new(), None);
                match &finding.tensor {
                    Some(_) => kinds = self::kinds(finding),
                    None => (because, measured) = (finding.because.clone(), finding.measured),
                }
                known.push(Known {
                    checkpoint: checkpoint.clone(),
                    rule: finding.rule,
                    tensor: finding.tensor.clone(),
                    verdict: finding.verdict,
                    kinds,
                    because,
                    measured,
                    message: finding.message.clone(),
                });
            }
            // In the order of the file's tensors, whether they were accepted before or not.
            known[begin..].sort_by(|a, b| (a.rule.id(), &a.tensor).cmp(&(b.rule.id(), &b.tensor)));
        }
        known.sort_by(|a, b| a.checkpoint.cmp(&b.checkpoint));
        Accepted { entries: known.into_iter().map(|known| (known, None)).collect() }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// As the text of a file: one finding a line, those of a checkpoint together.
    pub fn to_json(&self) -> String {
        let line = |(known, _): &(Known, _)| {
            let text = serde_json::to_string(known).expect("keys are strings");
            format!("    {}", ckpt_inspect::printable_json(&text))
        };
        let lines: Vec<String> = self.entries.iter().map(line).collect();
        let end = if lines.is_empty() { "" } else { "\n  " };
        let begin = if lines.is_empty() { "" } else { "\n" };
        format!("{{\n  \"accepted\": [{begin}{}{end}]\n}}\n", lines.join(",\n"))
    }

    /// Moves what is known from the findings of each checkpoint to its accepted ones, and tells which of the known were not
    /// found although their checkpoint was held against their rule. `root` is the working directory.
    pub fn apply(&self, outcome: &mut Outcome, root: Option<&Path>) {
        let mut applied = self.begin(root);
        outcome.checkpoints.iter_mut().for_each(|checked| applied.apply(checked));
        outcome.resolved.extend(applied.resolved().cloned());
        outcome.status = outcome.checkpoints.iter().map(|c| c.status).max().unwrap_or(outcome.status);
    }

    /// Begins to [apply](Self::apply) them, a checkpoint at a time.
    pub fn begin<'k>(&'k self, root: Option<&'k Path>) -> Applied<'k> {
        let mut places: HashMap<_, Vec<usize>> = HashMap::new();
        for (i, (known, _)) in self.entries.iter().enumerate() {
            places.entry((known.rule, known.tensor.as_deref())).or_default().push(i);
        }
        let not_yet = vec![false; self.entries.len()];
        Applied { known: self, root, places, used: not_yet.clone(), looked_for: not_yet }
    }
}

/// Known findings as the checkpoints come that they are held against.
#[derive(Debug)]
pub struct Applied<'k> {
    known: &'k Accepted,
    root: Option<&'k Path>,
    places: HashMap<(Rule, Option<&'k str>), Vec<usize>>,
    used: Vec<bool>,
    looked_for: Vec<bool>,
}

impl<'k> Applied<'k> {
    /// Moves what is known from the findings of `checked` to its accepted ones.
    pub fn apply(&mut self, checked: &mut Checked) {
        let Applied { known: Accepted { entries }, root, places, used, looked_for } = self;
        let path = relative_path(&checked.path, *root);
        let of_this = |i: &usize| {
            let (known, glob) = &entries[*i];
            known.checkpoint == path || glob.as_ref().is_some_and(|glob| glob.is_match(&path))
        };
        let readable = checked.status != Status::Unreadable || checked.checks.len() > 1;
        for i in (0..entries.len()).filter(|_| readable).filter(of_this) {
            looked_for[i] |= checked.checks.contains(&entries[i].0.rule);
        }
        let mut is_known = |finding: &Finding| {
            let place = places.get(&(finding.rule, finding.tensor.as_deref()));
            let mut known = false;
            // All that cover it: a rule may find two things of one tensor.
            for i in place.into_iter().flatten().copied().filter(of_this) {
                if can_be_known(finding) && covers(&entries[i].0, finding) {
                    (used[i], known) = (true, true);
                }
            }
            known
        };
        let found = std::mem::take(&mut checked.findings).into_iter();
        let accepted = std::mem::take(&mut checked.accepted);
        (checked.accepted, checked.findings) = found.chain(accepted).partition(&mut is_known);
        settle(checked);
    }

    /// Those that were looked for in vain so far.
    pub fn resolved(&self) -> impl Iterator<Item = &'k Known> {
        let places = (0..self.used.len()).filter(|&i| self.looked_for[i] && !self.used[i]);
        places.map(|i| &self.known.entries[i].0)
    }
}

/// The status that the findings which are left give.
fn settle(checked: &mut Checked) {
    let any = |of: &dyn Fn(&Finding) -> bool| checked.findings.iter().any(of);
    checked.status = if any(&|f| matches!(f.rule, Rule::UnreadableFile | Rule::DamagedFile)) {
        Status::Unreadable
    } else if any(&|f| f.severity == Severity::Error) {
        Status::Refused
    } else {
        Status::Passed
    };
}

/// Whether `finding` can be a known one. Of what could not be read, judged or run it is not known what it holds.
fn can_be_known(finding: &Finding) -> bool {
    let looked_at = match finding.rule {
        Rule::UnreadableFile | Rule::NothingJudged | Rule::FailedDiagnosis => false,
        Rule::DamagedFile => !finding.because.is_empty(),
        _ => true,
    };
    looked_at && finding.severity == Severity::Error
}

/// Whether `finding`, of the same rule and tensor, is no worse than `known`.
fn covers(known: &Known, finding: &Finding) -> bool {
    match finding.tensor {
        Some(_) => {
            let no_worse = finding.verdict.is_none_or(|is| known.verdict.is_some_and(|was| is <= was));
            no_worse && kinds(finding).iter().all(|kind| known.kinds.contains(kind))
        }
        None => known.because == finding.because && known.measured == finding.measured,
    }
}

/// The names of what was found.
fn kinds(finding: &Finding) -> Vec<String> {
    let name = |why: &Why| match serde_json::to_value(why) {
        Ok(Value::String(name)) => Some(name),
        Ok(Value::Object(fields)) => fields.keys().next().cloned(),
        _ => None,
    };
    finding.because.iter().filter_map(name).collect()
}
