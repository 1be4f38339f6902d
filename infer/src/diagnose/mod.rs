//! The three-step diagnosis of a code model: does it write Python that parses, can it reverse a list, are its weights
//! alive.

mod logic;
mod measure;
mod syntax;

use std::fmt;

use ckpt_inspect::{CheckpointRecord, Verdict};
use serde::Serialize;

use crate::cache::{Cache, KvType, WhenFull};
use crate::generate::{Generator, Outcome, Stop};
use crate::kernel::pool::Pool;
use crate::model::{Model, Runner};
use crate::sample::SampleOptions;
use crate::tokenizer::{Specials, Tokenizer};
use crate::{Error, Result};

pub use measure::Measures;

/// The prompts of the first step.
pub const SYNTAX_PROMPTS: [&str; 12] = [
    "def fibonacci(n):",
    "def factorial(n):",
    "def is_prime(n):",
    "def add(a, b):\n    return",
    "def read_file(path):\n    with open(path) as file:",
    "def count_words(text):\n    counts = {}\n    for word in text.split():",
    "class Stack:\n    def __init__(self):",
    "class Point:\n    def __init__(self, x, y):",
    "for i in range(10):",
    "import os\nimport sys\n",
    "try:\n    value = int(text)\nexcept ValueError:",
    "if __name__ == \"__main__\":",
];

/// The prompt of the second step.
pub const LOGIC_PROMPT: &str =
    "def reverse_list(items):\n    \"\"\"Return the items in reverse order, without items.reverse().\"\"\"\n";

/// The result of a diagnosis.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Whether every step passed.
    pub passed: bool,
    /// Syntax, logic, weights.
    pub steps: Vec<Step>,
}

/// The subject of a step of the protocol. As text and in JSON, the lower-case word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StepName {
    /// Whether the model's output parses.
    Syntax,
    /// Whether it solves the task.
    Logic,
    /// The checkpoint's verdict.
    Weights,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StepName::Syntax => "syntax",
            StepName::Logic => "logic",
            StepName::Weights => "weights",
        })
    }
}

/// One step of the protocol.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Its subject.
    pub name: StepName,
    /// Its verdict.
    pub passed: bool,
    /// The verdict in one line.
    pub summary: String,
    /// The evidence for it.
    pub checks: Vec<Check>,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// The prompt, or what was looked at.
    pub subject: String,
    /// Whether it is in the model's favour.
    pub passed: bool,
    /// Why, in one line.
    pub evidence: String,
    /// What the model wrote, greedily.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Statistics of the completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measures>,
}

/// The settings of a diagnosis.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The most tokens in a completion.
    pub max_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_tokens: 64 }
    }
}

/// Runs the three steps. `record` is that of the checkpoint, judged. `go_on` is asked before each prompt, with the
/// number of those done and of all, and ends the diagnosis by returning false.
///
/// # Errors
/// Those of encoding and running; `Usage` when `go_on` ended it. A prompt that does not fit the model's context, and
/// one after which the model computes NaN, is a check that failed.
pub fn diagnose(
    model: &Model,
    pool: &Pool,
    tokenizer: &Tokenizer,
    record: &CheckpointRecord,
    options: &Options,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Diagnosis> {
    let mut writer = Completer { runner: Runner::new(model, pool), model, tokenizer, options };
    let all = SYNTAX_PROMPTS.len() + 1;
    let mut checks = Vec::new();
    let stopped = Error::Usage("the diagnosis was stopped");
    for (done, prompt) in SYNTAX_PROMPTS.into_iter().enumerate() {
        if !go_on(done, all) {
            return Err(stopped);
        }
        checks.push(syntax_check(prompt, writer.complete(prompt)?, tokenizer));
    }
    if !go_on(all - 1, all) {
        return Err(stopped);
    }
    let logic = logic_check(writer.complete(LOGIC_PROMPT)?, tokenizer);
    let passed = checks.iter().filter(|check| check.passed).count();
    let syntax = Step {
        name: StepName::Syntax,
        passed: 2 * passed > checks.len(),
        summary: format!("{passed} of {} prompts are continued with Python that parses", checks.len()),
        checks,
    };
    let logic = Step {
        name: StepName::Logic,
        passed: logic.passed,
        summary: format!("reversing a list: {}", logic.evidence),
        checks: vec![logic],
    };
    let steps = vec![syntax, logic, weights(record)];
    Ok(Diagnosis { passed: steps.iter().all(|step| step.passed), steps })
}

/// The model's completion of a prompt.
struct Completion {
    text: String,
    outcome: Outcome,
    /// Probability of each token that was chosen.
    confidence: Vec<f32>,
}

struct Completer<'d, 'm> {
    runner: Runner<'m>,
    model: &'m Model,
    tokenizer: &'d Tokenizer,
    options: &'d Options,
}

impl Completer<'_, '_> {
    /// The completion, or the reason that it is missing.
    fn complete(&mut self, prompt: &str) -> Result<Result<Completion, String>> {
        let ids = self.tokenizer.prompt(prompt, Specials::AsText)?;
        let mut cache = Cache::new(self.model.config(), KvType::F32, WhenFull::Stop);
        if ids.len() > cache.room() {
            return Ok(Err("the prompt does not fit into the model's context".into()));
        }
        let stop = Stop {
            max_tokens: self.options.max_tokens,
            ids: self.tokenizer.stops().to_vec(),
            logprobs: Some(0),
        };
        let mut stream = self.tokenizer.stream(&ids, false);
        let (mut text, mut confidence) = (String::new(), Vec::new());
        let generated = Generator::new(&mut self.runner, &mut cache, &SampleOptions::default(), stop).run(
            &ids,
            &mut |token| {
                text += &stream.push(token.id);
                confidence.extend(token.logprob.map(f32::exp));
                true
            },
        );
        let outcome = match generated {
            Err(error @ Error::NotANumber { .. }) => return Ok(Err(error.to_string())),
            generated => generated?,
        };
        text += &stream.finish();
        Ok(Ok(Completion { text, outcome, confidence }))
    }
}

fn check(subject: &str, completion: Option<(String, Measures)>, found: Result<String, String>) -> Check {
    let passed = found.is_ok();
    let (completion, measures) = completion.unzip();
    let (Ok(evidence) | Err(evidence)) = found;
    Check { subject: subject.into(), passed, evidence, completion, measures }
}

fn syntax_check(prompt: &str, completion: Result<Completion, String>, tokenizer: &Tokenizer) -> Check {
    let Completion { text, outcome, confidence } = match completion {
        Ok(completion) => completion,
        Err(why) => return check(prompt, None, Err(why)),
    };
    let measures = Measures::of(&outcome.ids, &text, &confidence, tokenizer);
    let found = match measures.fault() {
        Some(fault) => Err(fault),
        None => syntax::parse(prompt, &text).map(|whole| format!("parses, {}", whole.counted())),
    };
    check(prompt, Some((text, measures)), found)
}

fn logic_check(completion: Result<Completion, String>, tokenizer: &Tokenizer) -> Check {
    let Completion { text, outcome, confidence } = match completion {
        Ok(completion) => completion,
        Err(why) => return check(LOGIC_PROMPT, None, Err(why)),
    };
    let measures = Measures::of(&outcome.ids, &text, &confidence, tokenizer);
    let found = match measures.fault() {
        Some(fault) => Err(fault),
        None => syntax::parse(LOGIC_PROMPT, &text).and_then(|whole| logic::reverses(&whole)),
    };
    check(LOGIC_PROMPT, Some((text, measures)), found)
}

/// The third step, from the checkpoint's verdict.
fn weights(record: &CheckpointRecord) -> Step {
    let (passed, summary) = match record.verdict {
        Some(Verdict::Healthy | Verdict::Untrained) => (true, "all judged tensors are healthy".to_string()),
        Some(verdict) => {
            let why = record.reasons.first().map(|reason| format!(": {reason}")).unwrap_or_default();
            (false, format!("{verdict}{why}"))
        }
        None => (false, "no weight matrix could be judged".to_string()),
    };
    let judged = record.tensors.iter().filter_map(|tensor| {
        let verdict = tensor.verdict.filter(|verdict| verdict.is_below_healthy())?;
        let why = tensor.finding.as_ref().map(|finding| format!(": {finding}")).unwrap_or_default();
        Some(check(record.own_name(&tensor.name), None, Err(format!("{verdict}{why}"))))
    });
    Step { name: StepName::Weights, passed, summary, checks: judged.collect() }
}
