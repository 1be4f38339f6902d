//! The mean of several checkpoints, equal, weighted, or as an exponential moving average over their steps.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use ckpt_inspect::{Checkpoint, DType, Format, Memory, Result as ReadResult, Storage, TensorInfo};

use super::averaged::{Averaged, OtherModel, OtherTypes, Taken, settings_that_differ};
use super::derived::{Derived, Make, is_made};
use super::input::{Input, Reader};
use super::{Draft, Edit, Given, Row, Setting, listed, sum};
use crate::verify::shared_names;
use crate::{Error, Result};

/// `--average`.
pub(super) const ROW: Row = Row {
    flag: "average",
    value: None,
    repeats: false,
    about: "Average all given checkpoints; for a folder, those in it. Config and step come from the last one",
    settings: &[
        Setting {
            flag: "weights",
            value: "W,W,…",
            about: "Weight of each checkpoint, in their order; the sum need not be 1",
        },
        Setting {
            flag: "ema",
            value: "DECAY",
            about: "Exponential moving average over steps: average = DECAY · average + (1 − DECAY) · checkpoint",
        },
    ],
    make: |given| Ok(Box::new(Average { weights: chosen(given)? })),
};

fn chosen(given: &Given) -> Result<Weights, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
    match (given.setting("weights"), given.setting("ema")) {
        (Some(_), Some(_)) => {
            Err("--weights and --ema are two ways to say how much each checkpoint counts".into())
        }
        (Some(text), None) => {
            let numbers: Option<Vec<f64>> = text.split(',').map(number).collect();
            let sound = |all: &Vec<f64>| {
                let sum: f64 = all.iter().sum();
                all.iter().all(|w| *w >= 0.0) && sum > 0.0 && sum.is_finite()
            };
            let numbers = numbers.filter(sound);
            numbers.map(Weights::Given).ok_or_else(|| {
                format!(
                    "--weights `{}`: must be numbers of 0 or more between commas, not all 0, and with a sum that is a number",
                    text.escape_debug()
                )
            })
        }
        (None, Some(text)) => {
            let decay = number(text).filter(|decay| (0.0..1.0).contains(decay));
            decay
                .map(Weights::Ema)
                .ok_or_else(|| format!("--ema `{}`: must be from 0 to below 1", text.escape_debug()))
        }
        (None, None) => Ok(Weights::Equal),
    }
}

/// How much each checkpoint counts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Weights {
    /// All the same.
    Equal,
    /// These, in the order of the checkpoints, divided by their sum.
    Given(Vec<f64>),
    /// Of an exponential moving average that begins with the first checkpoint and goes over the others in the order of their
    /// steps: e = decay * e + (1 - decay) * w.
    Ema(f64),
}

/// The mean of the weights of several checkpoints.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Average {
    /// How much each counts.
    pub weights: Weights,
}

impl Average {
    /// All count the same.
    pub fn equal() -> Self {
        Average { weights: Weights::Equal }
    }

    /// They count so.
    pub fn of(weights: Weights) -> Self {
        Average { weights }
    }
}

impl Edit for Average {
    fn joins(&self) -> bool {
        true
    }

    fn apply(&self, draft: &mut Draft) -> Result<()> {
        if draft.settings.keep_optimizer {
            let why = "an average cannot keep optimizer state, which belongs to one checkpoint";
            return Err(Error::target(why));
        }
        if draft.others.is_empty() {
            return Err(Error::of_source(
                &draft.checkpoint,
                "an average needs several checkpoints, and this is one",
            ));
        }
        Draft::check_computable(&draft.checkpoint)?;
        let count = self.order(draft)?;
        let factors = self.factors(count)?;
        let others = std::mem::take(&mut draft.others);
        for other in &others {
            Draft::check_computable(other)?;
            check_alike(&draft.checkpoint, other)?;
        }
        let columns = columns(&others, &draft.checkpoint)?;
        let mut paths: Vec<String> = others.iter().map(|c| c.path.to_string_lossy().into_owned()).collect();
        paths.push(draft.checkpoint.path.to_string_lossy().into_owned());
        let mut steps: Vec<Option<u64>> =
            others.iter().map(|c| c.step.as_ref().map(|(step, _)| *step)).collect();
        steps.push(draft.checkpoint.step.as_ref().map(|(step, _)| *step));
        let mut readers: Vec<Arc<Reader>> = others.iter().map(|c| Reader::new(&c.path)).collect();
        readers.push(Reader::new(&draft.checkpoint.path));

        let mut unlike_types: Vec<OtherTypes> = Vec::new();
        let mut done: HashMap<Vec<Place>, (TensorInfo, Arc<Derived>)> = HashMap::new();
        let (mut averaged, mut kept, mut differing) = (0, 0, Vec::new());
        for column in columns {
            let index = column.last;
            let tensor = draft.checkpoint.tensors[index].clone();
            let mut inputs: Vec<&TensorInfo> =
                others.iter().zip(&column.others).map(|(other, &i)| &other.tensors[i]).collect();
            inputs.push(&tensor);
            let counts = |t: &TensorInfo| t.dtype.is_integer() || t.dtype == DType::Bool;
            let unlike = inputs.iter().zip(&paths).find(|(input, _)| counts(input) != counts(&tensor));
            if let Some((input, path)) = unlike {
                let why = format!(
                    "`{}` is {} there and {} in {path}, which have no mean",
                    tensor.name.escape_debug(),
                    tensor.dtype,
                    input.dtype
                );
                return Err(Error::of_source(&draft.checkpoint, why));
            }
            if counts(&tensor) {
                if same(&readers, &inputs)? {
                    kept += 1;
                } else {
                    differing.push(tensor.name.clone());
                }
                continue;
            }
            for (input, source) in inputs.iter().zip(others.iter().chain([&draft.checkpoint])) {
                draft.computed_dtype(source, input, "averages")?;
            }
            averaged += 1;
            let unlike = inputs.iter().zip(&paths).find(|(input, _)| input.dtype != tensor.dtype);
            if let Some((input, path)) = unlike {
                OtherTypes::add(&mut unlike_types, path, [input.dtype, tensor.dtype], &tensor.name);
            }
            let dtype = if is_made(tensor.dtype) { tensor.dtype } else { DType::F32 };
            let places: Option<Vec<Place>> = inputs.iter().map(|t| Place::of(t)).collect();
            let (made, derived) = match places.as_ref().and_then(|places| done.get(places)) {
                Some(done) => done.clone(),
                None => {
                    let inputs =
                        inputs.iter().zip(&readers).map(|(t, reader)| Input::new(reader, t).checked());
                    let mean = Mean { inputs: inputs.collect(), factors: factors.clone() };
                    let made = Derived::tensor(&tensor, dtype, Box::new(mean))
                        .map_err(|e| e.in_file(&draft.checkpoint.path))?;
                    if let Some(places) = places {
                        done.insert(places, made.clone());
                    }
                    made
                }
            };
            draft.replace(&[index], &made, derived);
        }
        if averaged == 0 {
            return Err(Error::of_source(&draft.checkpoint, "it has no floating-point weights to average"));
        }
        draft.changes.push(Box::new(Averaged {
            paths,
            steps,
            factors,
            tensors: averaged,
            weights: self.weights.clone(),
        }));
        for other in &draft.others {
            let differ = settings_that_differ(other, &draft.checkpoint);
            if !differ.is_empty() {
                let paths = [other, &draft.checkpoint].map(|c| c.path.to_string_lossy().into_owned());
                draft.changes.push(Box::new(OtherModel { paths, differ }));
                break;
            }
        }
        for unlike in unlike_types {
            draft.changes.push(Box::new(unlike));
        }
        if !differing.is_empty() {
            let path = draft.checkpoint.path.to_string_lossy().into_owned();
            draft.changes.push(Box::new(Taken { names: differing, equal: kept, path }));
        }
        Ok(())
    }
}

impl Average {
    /// Puts the sources of `draft` in the order of their steps, where that matters; their number.
    fn order(&self, draft: &mut Draft) -> Result<usize> {
        let count = draft.others.len() + 1;
        if !matches!(self.weights, Weights::Ema(_)) {
            return Ok(count);
        }
        let step = |c: &Checkpoint| c.step.as_ref().map(|(step, _)| *step);
        let mut all = std::mem::take(&mut draft.others);
        all.push(std::mem::replace(&mut draft.checkpoint, Memory::new("").open()));
        if let Some(without) = all.iter().find(|c| step(c).is_none()) {
            let why = "its step is unknown, and a moving average needs steps: use --weights";
            return Err(Error::of_source(without, why));
        }
        all.sort_by_key(step);
        if let Some(pair) = all.windows(2).find(|pair| step(&pair[0]) == step(&pair[1])) {
            let why = format!(
                "it is of the same step as {}, and a moving average goes over steps",
                pair[0].path.display()
            );
            return Err(Error::of_source(&pair[1], why));
        }
        draft.checkpoint = all.pop().expect("there are several");
        draft.others = all;
        draft.settle();
        Ok(count)
    }

    /// The factor of each of `count` checkpoints; to be divided by their sum.
    fn factors(&self, count: usize) -> Result<Vec<f64>> {
        match &self.weights {
            Weights::Equal => Ok(vec![1.0; count]),
            Weights::Given(given) if given.len() == count => Ok(given.clone()),
            Weights::Given(given) => Err(Error::target(format!(
                "--weights has {} numbers, and there are {count} checkpoints",
                given.len()
            ))),
            Weights::Ema(decay) => {
                let mut factors = vec![1.0; 1];
                for _ in 1..count {
                    factors.iter_mut().for_each(|factor| *factor *= decay);
                    factors.push(1.0 - decay);
                }
                Ok(factors)
            }
        }
    }
}

/// Refuses to mix files whose rows are in different orders.
fn check_alike(last: &Checkpoint, other: &Checkpoint) -> Result<()> {
    let is_gguf = |c: &Checkpoint| matches!(c.format, Format::Gguf { .. });
    if is_gguf(last) != is_gguf(other) {
        let why = format!(
            "one of it and {} is a GGUF file, where rows may be in another order: convert that first",
            last.path.display()
        );
        return Err(Error::of_source(other, why));
    }
    Ok(())
}

/// One weight of all sources: its place among the tensors of each.
struct Column {
    others: Vec<usize>,
    last: usize,
}

/// The weights of `last`, each with the same one of all `others`.
fn columns(others: &[Checkpoint], last: &Checkpoint) -> Result<Vec<Column>> {
    let named = shared_names(last);
    let mut columns: Vec<Column> =
        named.iter().map(|(_, i)| Column { others: Vec::with_capacity(others.len()), last: *i }).collect();
    for other in others {
        let theirs = shared_names(other);
        let index: HashMap<&str, usize> = theirs.iter().map(|(name, i)| (name.as_str(), *i)).collect();
        let ours: HashSet<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<&str> = ours_in_order(&named).filter(|name| !index.contains_key(name)).collect();
        if !missing.is_empty() {
            let why = format!("it has no {}, which {} has", listed(missing.into_iter()), last.path.display());
            return Err(Error::of_source(other, why));
        }
        let extra: Vec<&str> = ours_in_order(&theirs).filter(|name| !ours.contains(name)).collect();
        if !extra.is_empty() {
            let why = format!("it has {}, which {} has not", listed(extra.into_iter()), last.path.display());
            return Err(Error::of_source(other, why));
        }
        for (column, (name, i)) in columns.iter_mut().zip(&named) {
            let (a, b) = (&last.tensors[*i], &other.tensors[index[name.as_str()]]);
            if a.shape != b.shape {
                let why = format!(
                    "its `{}` has shape {:?}, and that of {} {:?}",
                    b.name.escape_debug(),
                    b.shape,
                    last.path.display(),
                    a.shape
                );
                return Err(Error::of_source(other, why));
            }
            column.others.push(index[name.as_str()]);
        }
    }
    Ok(columns)
}

fn ours_in_order(named: &[(String, usize)]) -> impl Iterator<Item = &str> {
    named.iter().map(|(name, _)| name.as_str())
}

/// Whether the tensors are the same in type and bytes.
fn same(readers: &[Arc<Reader>], tensors: &[&TensorInfo]) -> Result<bool> {
    let Some((last, others)) = tensors.split_last() else { return Ok(true) };
    let last_input = Input::new(&readers[others.len()], last);
    for (other, reader) in others.iter().zip(readers) {
        if other.dtype != last.dtype || !Input::new(reader, other).is_same(&last_input)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where the elements of a tensor are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place(Storage, u64, Vec<usize>, Vec<usize>, DType);

impl Place {
    fn of(tensor: &TensorInfo) -> Option<Place> {
        (tensor.quantized.is_none() && tensor.quantizer.is_none()).then_some(())?;
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        Some(Place(tensor.storage.clone()?, tensor.byte_offset, shape, strides, tensor.dtype))
    }
}

/// The mean of tensors: the sum of their elements times their factors in f64, in their order, divided by the sum of the factors.
#[derive(Debug)]
struct Mean {
    inputs: Vec<Input>,
    factors: Vec<f64>,
}

/// Elements that are summed and rounded together: they stay in the first-level cache.
const BLOCK: usize = 1024;

impl Make for Mean {
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let parts: Option<Vec<TensorInfo>> = self.inputs.iter().map(|input| input.part(&range)).collect();
        match parts {
            Some(parts) => self.of_stored(range, &parts, take),
            None => self.of_any(range, take),
        }
    }
}

impl Mean {
    /// What the sums of elements are divided by.
    fn total(&self) -> f64 {
        self.factors.iter().sum()
    }

    /// The mean where all elements are there as they are stored, of which `parts` are those of `range`.
    fn of_stored(
        &self,
        range: Range<usize>,
        parts: &[TensorInfo],
        take: &mut dyn FnMut(&[f64]),
    ) -> ReadResult<()> {
        let inputs = self.inputs.iter().zip(parts).zip(&self.factors);
        let terms = inputs.map(|((input, part), &weight)| {
            Ok(sum::Term { bytes: input.stored(&range, part)?, dtype: part.dtype, weight })
        });
        let (terms, total) = (terms.collect::<ReadResult<Vec<_>>>()?, self.total());
        let mut means = [0.0; BLOCK];
        for start in (0..range.len()).step_by(BLOCK) {
            let means = &mut means[..BLOCK.min(range.len() - start)];
            sum::mean(&terms, start, total, means);
            take(means);
        }
        Ok(())
    }

    /// The mean of elements that are decoded.
    fn of_any(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let mut sums = vec![-0.0; range.len()];
        for (input, &factor) in self.inputs.iter().zip(&self.factors) {
            let numbers = input.numbers(range.clone())?;
            sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += factor * x);
        }
        sum::divide(&mut sums, self.total());
        take(&sums);
        Ok(())
    }
}
