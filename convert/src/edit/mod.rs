//! Edits of checkpoints: what everyone scripts, as changes of the tensors from which a conversion is planned. An edit says which
//! tensors there are, under which names, and of what they are computed; [`Plan`] and what writes and verifies it do not know that the
//! tensors are not those of a file.
//!
//! ```no_run
//! use ckpt_convert::edit::{Average, Settings, edit};
//! use ckpt_convert::{Control, Options, Target, verify_written, write};
//!
//! let sources = ["step-1000.pt", "step-2000.pt"].map(ckpt_inspect::open);
//! let sources = sources.into_iter().collect::<Result<Vec<_>, _>>()?;
//! let options = Options::new(Target::SafeTensors);
//! let edited = edit(sources, &[Box::new(Average::equal())], &Settings::of(&options))?;
//! let mut plan = edited.plan(&options)?;
//! write(&mut plan, &options, "mean.safetensors".as_ref(), Control::new(&|_| (), &Default::default()))?;
//! assert!(verify_written(&plan, "mean.safetensors".as_ref())?.agrees());
//! # Ok::<(), ckpt_convert::Error>(())
//! ```
//!
//! A new edit is a file here and a line in [`EDITS`].

mod adapter;
mod average;
mod averaged;
pub(crate) mod derived;
mod gguf_adapter;
pub(crate) mod input;
mod instances;
mod keep;
mod lora;
mod modules;
mod pattern;
mod rename;
mod strip;
mod sum;
mod targets;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::{Checkpoint, DType, TensorInfo};

use crate::note::Note;
use crate::plan::{Options, Plan};
use crate::sharing::tied_names;
use crate::source::helpers;
use crate::target::Target;
use crate::{Error, Result};
use derived::{Derived, is_made};

pub use average::{Average, Weights};
pub use gguf_adapter::AdapterOf;
pub use keep::{Drop, Keep};
pub use lora::Lora;
pub use pattern::Pattern;
pub use rename::Rename;
pub use strip::Strip;

/// Every edit, in the order in which several of them are carried out.
pub static EDITS: [Row; 7] =
    [average::ROW, lora::ROW, gguf_adapter::ROW, strip::ROW, keep::DROP, keep::KEEP, rename::ROW];

/// An edit.
pub trait Edit: fmt::Debug + Send + Sync {
    /// Carries it out on `draft`, and says there what it changed.
    ///
    /// # Errors
    /// What keeps it from being done as asked.
    fn apply(&self, draft: &mut Draft) -> Result<()>;

    /// Whether it makes one checkpoint of several.
    fn joins(&self) -> bool {
        false
    }

    /// The checkpoints that it reads besides the sources.
    fn inputs(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// What an edit is on a command line.
#[non_exhaustive]
pub struct Row {
    /// Its flag, without dashes.
    pub flag: &'static str,
    /// What its value is called; `None` for a flag without one.
    pub value: Option<&'static str>,
    /// Whether it can be given several times.
    pub repeats: bool,
    /// Its description.
    pub about: &'static str,
    /// Flags that say more about it.
    pub settings: &'static [Setting],
    /// The edit of these values.
    ///
    /// # Errors
    /// What is wrong with them.
    pub make: fn(&Given) -> Result<Box<dyn Edit>, String>,
}

/// A flag that says more about an edit.
#[non_exhaustive]
pub struct Setting {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What its value is called.
    pub value: &'static str,
    /// Its description.
    pub about: &'static str,
}

/// The values that were given of a [`Row`] and its settings.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Given {
    /// Those of the row, in order.
    pub values: Vec<String>,
    /// Flags and values of its settings.
    pub settings: Vec<(&'static str, String)>,
}

impl Given {
    /// The value of the setting `flag`.
    pub fn setting(&self, flag: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| *name == flag).map(|(_, value)| value.as_str())
    }
}

/// Something that an edit did. As text it is a sentence without its end.
pub trait Change: fmt::Display + fmt::Debug {
    /// The same for programs.
    fn record(&self) -> serde_json::Value;

    /// Whether it is not just what was asked for.
    fn is_warning(&self) -> bool {
        false
    }
}

/// What edits need to know of the conversion that follows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// What is written.
    pub target: Target,
    /// Whether weights that are not stored as plain floating-point numbers may become such, because types for them were chosen.
    pub decode: bool,
    /// Whether optimizer state, schedulers and random states stay.
    pub keep_optimizer: bool,
    /// The type of the matrices of a GGUF file, if it was chosen.
    pub quant: Option<crate::quant::Quant>,
}

impl Settings {
    /// What follows from the options of a conversion.
    pub fn of(options: &Options) -> Self {
        let quant = match options.target {
            Target::Gguf(settings) => settings.quant,
            _ => None,
        };
        let typed = options.dtype.is_some() || !options.dtypes.is_empty();
        let (target, keep_optimizer) = (options.target, options.keep_optimizer);
        Settings { target, decode: typed || quant.is_some(), keep_optimizer, quant }
    }
}

/// A checkpoint that is being edited.
#[derive(Debug)]
pub struct Draft {
    /// Its tensors, and what else it has.
    checkpoint: Checkpoint,
    /// The other sources, before it.
    others: Vec<Checkpoint>,
    settings: Settings,
    changes: Vec<Box<dyn Change>>,
    /// What is computed, by name.
    derived: Vec<(String, Arc<Derived>)>,
    /// The keys of a GGUF file that is no model.
    keys: Option<ckpt_inspect::gguf::Keys>,
    /// The type of its tensors there.
    dtype: Option<DType>,
    /// Rows in another order, by tensor.
    rotated: HashMap<String, crate::Rotary>,
    /// Whether what only training needs has been left out.
    stripped: bool,
    /// Whether tensors have names that were asked for.
    renamed: bool,
    /// Whether tensors were left out on purpose.
    partial: bool,
}

/// A checkpoint that has been edited, ready to be written.
#[derive(Debug)]
pub struct Edited(Draft);

/// Edits `sources`, of which the last one has the plain values that are kept: its config, its step. All of them are opened and
/// whole; their checksums are compared for [`Edited`]'s sake before, but for those of tensors that [`checks_itself`] names.
///
/// # Errors
/// `Source` and `Target` for what cannot be done as asked, `Read` for what cannot be read.
pub fn edit(mut sources: Vec<Checkpoint>, edits: &[Box<dyn Edit>], settings: &Settings) -> Result<Edited> {
    let Some(checkpoint) = sources.pop() else {
        return Err(Error::target("there is no checkpoint to edit"));
    };
    if !sources.is_empty() && !edits.iter().any(|edit| edit.joins()) {
        let why = format!("{} checkpoints were given, but only --average takes several", sources.len() + 1);
        return Err(Error::target(why));
    }
    let mut draft = Draft {
        checkpoint,
        others: sources,
        settings: settings.clone(),
        changes: Vec::new(),
        derived: Vec::new(),
        keys: None,
        dtype: None,
        rotated: HashMap::new(),
        stripped: false,
        renamed: false,
        partial: false,
    };
    draft.settle();
    for edit in edits {
        edit.apply(&mut draft)?;
    }
    if !settings.keep_optimizer && !draft.stripped {
        strip::strip(&mut draft);
    }
    Ok(Edited(draft))
}

/// Whether an average compares `tensor` with its checksum while it reads it, so that it need not be read for that before.
pub fn checks_itself(tensor: &TensorInfo) -> bool {
    input::has_own_checksum(tensor)
}

impl Draft {
    /// Makes names and tensors one to one: tensors that only describe how others are packed go, and what the metadata of a file calls the
    /// same as another tensor becomes one.
    fn settle(&mut self) {
        let helpers = helpers(&self.checkpoint, self.settings.target);
        let mut index = 0;
        let tied: Vec<TensorInfo> = tied_names(&self.checkpoint)
            .into_iter()
            .map(|(name, of)| {
                let mut tensor = self.checkpoint.tensors[of].clone();
                tensor.name = name;
                tensor
            })
            .collect();
        self.checkpoint.tensors.retain(|_| {
            index += 1;
            !helpers.contains(&(index - 1))
        });
        if let Value::Dict(entries) = &mut self.checkpoint.metadata {
            for tensor in &tied {
                entries.remove(&HashableValue::String(tensor.name.clone()));
            }
        }
        self.checkpoint.tensors.extend(tied);
    }

    /// Refuses to compute with weights of `source` that are not read, or are there as codes.
    fn check_computable(source: &Checkpoint) -> Result<()> {
        if let Some(why) = source.coding.refusal() {
            return Err(Error::of_source(source, why));
        }
        match source.coding.stored {
            0 => Ok(()),
            _ => Err(Error::of_source(
                source,
                "its weights were opened as stored codes, which cannot be computed with",
            )),
        }
    }

    /// The type of what is computed from `tensor`: its own, or f32 for one that is not stored as plain floats, where that is wanted.
    ///
    /// # Errors
    /// `Source` where it is not wanted, and for elements that are no real numbers.
    fn computed_dtype(&self, source: &Checkpoint, tensor: &TensorInfo, doing: &str) -> Result<DType> {
        if is_made(tensor.dtype) {
            return Ok(tensor.dtype);
        }
        let name = tensor.name.escape_debug();
        if tensor.dtype.is_complex() {
            let why = format!("`{name}` is {}, which is not {doing}", tensor.dtype);
            return Err(Error::of_source(source, why));
        }
        if !self.settings.decode {
            let why = format!(
                "`{name}` is {}, and {doing} are floating-point numbers: say which type the result has, with `--to bf16`, `--dtype '*=bf16'` or in GGUF `--quant q8_0`",
                tensor.dtype
            );
            return Err(Error::of_source(source, why));
        }
        Ok(DType::F32)
    }

    /// Puts what `derived` computes in the place of the tensors `indices`, which are one under several names.
    fn replace(&mut self, indices: &[usize], made: &TensorInfo, derived: Arc<Derived>) {
        for &index in indices {
            let tensor = &mut self.checkpoint.tensors[index];
            let (name, group) = (tensor.name.clone(), tensor.group);
            *tensor = made.clone();
            (tensor.name, tensor.group) = (name, group);
        }
        self.derived.push((self.checkpoint.tensors[indices[0]].name.clone(), derived));
    }

    /// Removes the tensors that `gone` names, and the dicts that this empties.
    fn remove(&mut self, gone: &HashSet<usize>) {
        let mut index = 0;
        let first = |name: &str| name.split('.').next().unwrap_or("").to_string();
        let mut emptied: HashSet<String> = HashSet::new();
        self.checkpoint.tensors.retain(|tensor| {
            index += 1;
            let goes = gone.contains(&(index - 1));
            if goes {
                emptied.insert(first(&tensor.name));
            }
            !goes
        });
        for tensor in &self.checkpoint.tensors {
            emptied.remove(&first(&tensor.name));
        }
        if let Value::Dict(entries) = &mut self.checkpoint.metadata {
            entries.retain(|key, value| {
                let HashableValue::String(key) = key else { return true };
                !(emptied.contains(key) && matches!(value, Value::Dict(inner) if inner.is_empty()))
            });
        }
    }
}

impl Edited {
    /// The checkpoint: tensors whose bytes are computed when they are read.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0.checkpoint
    }

    /// What was changed.
    pub fn changes(&self) -> impl Iterator<Item = &dyn Change> {
        self.0.changes.iter().map(|change| &**change)
    }

    /// Whether it is no model by itself, but something to be loaded with one.
    pub fn is_adapter(&self) -> bool {
        self.0.keys.is_some()
    }

    /// What to write of it.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn plan(&self, options: &Options) -> Result<Plan<'_>> {
        if let Some(keys) = &self.0.keys {
            return gguf_adapter::plan(&self.0, keys, options);
        }
        let mut options = options.clone();
        // GGUF's names are made of those that are known.
        let own_names = self.0.renamed && !matches!(options.target, Target::Gguf(_));
        options.own_names |= own_names;
        options.allow_incomplete |= self.0.partial || own_names;
        let mut plan = Plan::new(&self.0.checkpoint, &options)?;
        if own_names && !self.0.partial {
            // Under other names nothing is known of what a model needs.
            plan.notes.retain(|note| !matches!(note, Note::Incomplete(_)));
        }
        Ok(plan)
    }

    /// The tensors that came out with values that are not finite, and how many there are, as far as they have been computed.
    pub fn not_finite(&self) -> Vec<(&str, u64)> {
        let found = self.0.derived.iter().map(|(name, derived)| (name.as_str(), derived.not_finite()));
        found.filter(|(_, count)| *count > 0).collect()
    }
}

/// `1 tensor`, `2 tensors`.
fn tensors(n: usize) -> String {
    format!("{n} tensor{}", if n == 1 { "" } else { "s" })
}

/// Names for a message, the first few of them.
fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    const NAMED: usize = 4;
    let count = names.len();
    let named: Vec<String> = names.take(NAMED).map(|name| format!("`{}`", name.escape_debug())).collect();
    match count.saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
