//! Merging a LoRA adapter into its base: W + s B A, with the scale s of alpha and the rank, and with DoRA's magnitude m (Liu et al., 2024,
//! <https://arxiv.org/abs/2402.09353>) m (W + s B A) / |W + s B A|, the norm being that of each output's weights.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ckpt_inspect::meaning::architecture::Role;
use ckpt_inspect::{Checkpoint, Result as ReadResult, TensorInfo};
use serde_json::json;

use super::adapter::{Adapter, LowRank, refused};
use super::derived::{Derived, Make, PIECE};
use super::input::{Input, Reader};
use super::modules::{is_conv1d, join_head};
use super::targets::{Targets, Ties, role, shares_head};
use super::{Change, Draft, Edit, Row, listed, sum, tensors};
use crate::names::Style;
use crate::source::row_order;
use crate::{Error, Result, Rotary};

/// `--lora`.
pub(super) const ROW: Row = Row {
    flag: "lora",
    value: Some("ADAPTER"),
    repeats: true,
    about: "Merge a LoRA or DoRA adapter in PEFT's form (a folder, or its adapter_model file) into the checkpoint. Several are merged in turn",
    settings: &[],
    make: |given| {
        let adapters = given.values.iter().map(PathBuf::from).collect();
        Ok(Box::new(Lora { adapters }))
    },
};

/// Merges LoRA adapters into their base, one after another.
#[derive(Clone, Debug)]
pub struct Lora {
    adapters: Vec<PathBuf>,
}

impl Lora {
    /// Those at these paths.
    pub fn new<P: Into<PathBuf>>(adapters: impl IntoIterator<Item = P>) -> Self {
        Lora { adapters: adapters.into_iter().map(Into::into).collect() }
    }
}

impl Edit for Lora {
    fn inputs(&self) -> Vec<PathBuf> {
        self.adapters.clone()
    }

    fn apply(&self, draft: &mut Draft) -> Result<()> {
        Draft::check_computable(&draft.checkpoint)?;
        self.adapters.iter().try_for_each(|path| merge(draft, Adapter::open(path)?))
    }
}

/// A tensor that is the head too, and was changed as the embedding.
#[derive(Debug)]
struct HeadChanged {
    adapter: String,
}

impl fmt::Display for HeadChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = self.adapter.escape_debug();
        write!(
            f,
            "{adapter} changes the embedding, which is the head too: the head was another one when it was trained, so the merged model may write otherwise"
        )
    }
}

impl Change for HeadChanged {
    fn record(&self) -> serde_json::Value {
        json!({"edit": ROW.flag, "adapter": self.adapter, "head_changed": true})
    }

    fn is_warning(&self) -> bool {
        true
    }
}

/// An adapter whose configuration names another model than the base calls itself, which may be a copy under another name.
#[derive(Debug)]
pub(super) struct OtherName {
    adapter: String,
    trained: String,
    own: String,
}

impl OtherName {
    /// What there is to say of `adapter` and `base`.
    pub(super) fn of(adapter: &Adapter, base: &Checkpoint) -> Option<Self> {
        let (trained, own) = adapter.other_name(base)?;
        Some(OtherName { adapter: adapter.path.to_string_lossy().into_owned(), trained, own })
    }
}

impl fmt::Display for OtherName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [adapter, trained, own] = [&self.adapter, &self.trained, &self.own].map(|s| s.escape_debug());
        write!(
            f,
            "{adapter} was trained for {trained}, and its base calls itself {own}: its shapes fit, which does not make it right"
        )
    }
}

impl Change for OtherName {
    fn record(&self) -> serde_json::Value {
        json!({"edit": ROW.flag, "adapter": self.adapter, "trained_for": self.trained, "base": self.own})
    }

    fn is_warning(&self) -> bool {
        true
    }
}

/// Merges `adapter` into `draft`.
fn merge(draft: &mut Draft, mut adapter: Adapter) -> Result<()> {
    let targets = Targets::of(&draft.checkpoint);
    let joined = shares_head(&draft.checkpoint) && join_head(&mut adapter)?;
    let mut ties = Ties::of(&draft.checkpoint.tensors);
    let base = Reader::new(&draft.checkpoint.path);
    let weight = |module: &str| targets.find(&format!("{module}.weight"));
    let unknown: Vec<String> = adapter
        .changes
        .keys()
        .filter(|module| weight(module).is_none())
        .map(|module| format!("{module}.weight"))
        .chain(adapter.replaced.keys().filter(|name| targets.find(name).is_none()).cloned())
        .collect();
    // A head that is the embedding has no tensor of its own.
    let of_head = |name: &String| role(name) == Some(Role::Head);
    if !unknown.is_empty() && unknown.iter().all(of_head) && shares_head(&draft.checkpoint) {
        let why = format!(
            "it changes the head apart from the embedding, and {} has one tensor for both: write the head as a tensor of its own there, with tie_word_embeddings false",
            draft.checkpoint.path.display()
        );
        return Err(refused(&adapter.path, why));
    }
    if !unknown.is_empty() {
        return Err(other_base(
            draft,
            &adapter,
            &format!("has no {}", listed(unknown.iter().map(String::as_str))),
        ));
    }
    adapter.check_meant(&draft.checkpoint)?;
    draft.changes.extend(OtherName::of(&adapter, &draft.checkpoint).map(|change| Box::new(change) as _));
    let recent = Arc::new(Mutex::new(None));
    let mut changed = HashSet::new();
    // First, as low-rank changes are made to what an adapter has of their layers.
    for (name, tensor) in &adapter.replaced {
        let Some(index) = targets.find(name) else { continue };
        changed.extend(put(draft, &adapter, &mut ties, (name, index), tensor)?);
    }
    for (number, (module, change)) in adapter.changes.iter().enumerate() {
        let Some(index) = weight(module) else { continue };
        let tensor = draft.checkpoint.tensors[index].clone();
        let dtype = draft.computed_dtype(&draft.checkpoint, &tensor, "what LoRA changes")?;
        let turned = is_conv1d(&draft.checkpoint, module);
        let (rows, columns, transposed) = orientation(&tensor.shape, change, turned, adapter.fan_in_fan_out)
            .ok_or_else(|| shape_differs(draft, &adapter, &tensor, change))?;
        let product = Product {
            number,
            a: adapter.input(change.a.as_ref().expect("it has been checked")),
            b: adapter.input(change.b.as_ref().expect("it has been checked")),
            rank: change.rank,
            rows,
            columns,
            transposed,
            recent: recent.clone(),
        };
        let magnitude = match &change.magnitude {
            None => None,
            Some(tensor) => {
                let outputs = if transposed { columns } else { rows };
                if tensor.numel() != outputs as u64 {
                    return Err(shape_differs(draft, &adapter, tensor, change));
                }
                Some(Magnitude {
                    input: adapter.input(tensor),
                    by_column: transposed,
                    factors: OnceLock::new(),
                })
            }
        };
        let order = file_order(draft, &tensor);
        let merged =
            Merged { base: Input::new(&base, &tensor), product, scaling: change.scaling, magnitude, order };
        let in_base = |e: ckpt_inspect::Error| e.in_file(&draft.checkpoint.path);
        let (made, derived) = Derived::tensor(&tensor, dtype, Box::new(merged)).map_err(in_base)?;
        let names = ties.with(index);
        changed.extend(names.iter().copied());
        draft.replace(&names, &made, derived);
        if let Some(bias) = &change.bias {
            changed.extend(shift(draft, &adapter, (&targets, &ties), &base, (module, bias, change.scaling))?);
        }
    }
    adapter.check_whole(&draft.checkpoint)?;
    let is_table = |name: &str| role(name) == Some(Role::Embedding);
    let changes_table = adapter.replaced.keys().any(|name| is_table(name))
        || adapter.changes.keys().any(|module| is_table(&format!("{module}.weight")));
    if changes_table && !joined && shares_head(&draft.checkpoint) {
        let adapter = adapter.path.to_string_lossy().into_owned();
        draft.changes.push(Box::new(HeadChanged { adapter }));
    }
    let dora = adapter.changes.values().filter(|change| change.magnitude.is_some()).count();
    let change = LoraMerged {
        adapter: adapter.path.to_string_lossy().into_owned(),
        base: adapter.base.clone(),
        modules: adapter.changes.len(),
        dora,
        replaced: adapter.replaced.len(),
        tensors: changed.len(),
    };
    draft.changes.push(Box::new(change));
    Ok(())
}

/// Rows and columns of a stored weight, and whether its rows are inputs; `None` if the change is of another shape. Where the base
/// does not tell that (`is_turned`), its shape does, and of a square one the configuration.
pub(crate) fn orientation(
    shape: &[usize],
    change: &LowRank,
    is_turned: Option<bool>,
    fan_in_fan_out: bool,
) -> Option<(usize, usize, bool)> {
    let (a, b) = (change.a.as_ref()?, change.b.as_ref()?);
    let (inputs, outputs) = (a.shape[1..].iter().product::<usize>(), *b.shape.first()?);
    let rows = *shape.first()?;
    let columns = shape[1..].iter().product::<usize>();
    if change.is_embedding {
        return (shape.len() == 2 && (rows, columns) == (inputs, outputs)).then_some((rows, columns, true));
    }
    let convolution = a.shape.len() > 2;
    if convolution && (a.shape[1..] != shape[1..] || b.shape[2..].iter().any(|&size| size != 1)) {
        return None;
    }
    let plain = shape.len() >= 2 && (rows, columns) == (outputs, inputs);
    let turned = shape.len() == 2 && !convolution && (rows, columns) == (inputs, outputs);
    let transposed = match is_turned.filter(|_| !convolution) {
        Some(is_turned) => is_turned,
        None if plain && turned => fan_in_fan_out,
        None => turned,
    };
    let fits = if transposed { turned } else { plain };
    fits.then_some((rows, columns, transposed))
}

/// Where the rows of a weight are, as the adapter numbers them, if a file has them in another order.
fn file_order(draft: &Draft, tensor: &TensorInfo) -> Option<Rotary> {
    row_order(&draft.checkpoint, tensor).map(|order| Rotary { interleave: !order.interleave, ..order })
}

/// Adds a bias of LoRA times its scale to that of the base.
fn shift(
    draft: &mut Draft,
    adapter: &Adapter,
    (targets, ties): (&Targets, &Ties),
    base: &Arc<Reader>,
    (module, bias, scaling): (&str, &TensorInfo, f64),
) -> Result<Vec<usize>> {
    let name = format!("{module}.bias");
    let index = targets
        .find(&name)
        .ok_or_else(|| other_base(draft, adapter, &format!("has no `{}`", name.escape_debug())))?;
    let tensor = draft.checkpoint.tensors[index].clone();
    if tensor.shape != bias.shape {
        return Err(differ(draft, adapter, &tensor, bias));
    }
    let dtype = draft.computed_dtype(&draft.checkpoint, &tensor, "what LoRA changes")?;
    let order = file_order(draft, &tensor);
    let shifted = Shifted { base: Input::new(base, &tensor), by: adapter.input(bias), scaling, order };
    let (made, derived) = Derived::tensor(&tensor, dtype, Box::new(shifted))?;
    let names = ties.with(index);
    draft.replace(&names, &made, derived);
    Ok(names)
}

/// Puts a tensor of the adapter in the place of the base's, in the base's type.
fn put(
    draft: &mut Draft,
    adapter: &Adapter,
    ties: &mut Ties,
    (name, index): (&str, usize),
    tensor: &TensorInfo,
) -> Result<Vec<usize>> {
    let own = draft.checkpoint.tensors[index].clone();
    if own.shape != tensor.shape {
        return Err(differ(draft, adapter, &own, tensor));
    }
    let dtype = draft.computed_dtype(&draft.checkpoint, &own, "what an adapter replaces")?;
    if crate::source::shift(&draft.checkpoint, &own, Some(Style::Hf)) != 0.0 {
        let why = format!(
            "it replaces `{}`, of which {} has one more: merge it into the model in Hugging Face's form, and convert that",
            name.escape_debug(),
            draft.checkpoint.path.display()
        );
        return Err(refused(&adapter.path, why));
    }
    let order = file_order(draft, &own);
    let copied = Copied { input: adapter.input(tensor), order };
    let (made, derived) = Derived::tensor(&own, dtype, Box::new(copied))?;
    // A module that was saved whole is a copy of its own, also where the base has it under two names.
    if !adapter.below.contains(name) {
        ties.part(index);
    }
    let names = ties.with(index);
    draft.replace(&names, &made, derived);
    Ok(names)
}

fn other_base(draft: &Draft, adapter: &Adapter, what: &str) -> Error {
    let named = adapter.base.as_ref().map(|base| format!(" (it was trained for {})", base.escape_debug()));
    let why = format!(
        "it is an adapter for another base{}: {} {what}",
        named.unwrap_or_default(),
        draft.checkpoint.path.display()
    );
    refused(&adapter.path, why)
}

fn shape_differs(draft: &Draft, adapter: &Adapter, tensor: &TensorInfo, change: &LowRank) -> Error {
    let shape = |tensor: &Option<TensorInfo>| tensor.as_ref().map(|t| t.shape.clone()).unwrap_or_default();
    let what = format!(
        "has `{}` of shape {:?}, and its matrices are {:?} and {:?}",
        tensor.name.escape_debug(),
        tensor.shape,
        shape(&change.a),
        shape(&change.b)
    );
    other_base(draft, adapter, &what)
}

fn differ(draft: &Draft, adapter: &Adapter, own: &TensorInfo, tensor: &TensorInfo) -> Error {
    let what =
        format!("has `{}` of shape {:?}, and it {:?}", own.name.escape_debug(), own.shape, tensor.shape);
    other_base(draft, adapter, &what)
}

/// Two matrices whose product is what a stored weight changes by, row-major in f32.
#[derive(Debug)]
struct Factors {
    /// [rows, rank].
    left: Vec<f32>,
    /// [rank, columns].
    right: Vec<f32>,
}

/// The factors of a number in an adapter.
type Recent = (usize, Arc<Factors>);

/// The low-rank change of a stored weight.
#[derive(Debug)]
struct Product {
    /// Its number in the adapter.
    number: usize,
    a: Input,
    b: Input,
    rank: usize,
    rows: usize,
    columns: usize,
    /// Whether rows are inputs.
    transposed: bool,
    /// The factors that were used last, of all in the adapter: an adapter need not be in memory as a whole.
    recent: Arc<Mutex<Option<Recent>>>,
}

impl Product {
    fn factors(&self) -> ReadResult<Arc<Factors>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, factors)) = recent.as_ref().filter(|(number, _)| *number == self.number) {
            return Ok(factors.clone());
        }
        *recent = None;
        // A is [rank, in] and B [out, rank].
        let (a, b) = (self.a.to_f32()?, self.b.to_f32()?);
        let factors = Arc::new(match self.transposed {
            false => Factors { left: b, right: a },
            true => {
                Factors { left: turned(&a, self.rank, self.rows), right: turned(&b, self.columns, self.rank) }
            }
        });
        *recent = Some((self.number, factors.clone()));
        Ok(factors)
    }
}

/// The transposed of a row-major matrix.
fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        for column in 0..columns {
            out[column * rows + row] = values[row * columns + column];
        }
    }
    out
}

/// DoRA's magnitudes.
#[derive(Debug)]
struct Magnitude {
    input: Input,
    /// Whether outputs are the columns of the stored weight.
    by_column: bool,
    /// What each output is multiplied by: its magnitude by its norm.
    factors: OnceLock<ReadResult<Vec<f64>>>,
}

/// A weight with a low-rank change.
#[derive(Debug)]
struct Merged {
    base: Input,
    product: Product,
    scaling: f64,
    magnitude: Option<Magnitude>,
    order: Option<Rotary>,
}

impl Merged {
    /// The elements `range` of W + s B A, part by part: the first element's place, and the values.
    fn sums(&self, range: Range<usize>, take: &mut dyn FnMut(usize, &mut [f64])) -> ReadResult<()> {
        let factors = self.product.factors()?;
        let (columns, rank) = (self.product.columns, self.product.rank);
        let base = self.base.numbers(range.clone())?;
        let mut sums = Vec::with_capacity(columns.min(base.len()));
        let mut at = range.start;
        while at < range.end {
            let (row, first) = (at / columns, at % columns);
            let n = (columns - first).min(range.end - at);
            let from = self.order.map_or(row, |order| order.source_row(row));
            sums.clear();
            sums.resize(n, 0.0);
            let left = &factors.left[from * rank..(from + 1) * rank];
            sum::add_products(left, &factors.right, columns, first, &mut sums);
            let own = &base[at - range.start..][..n];
            sums.iter_mut().zip(own).for_each(|(sum, &w)| *sum = w + self.scaling * *sum);
            take(at, &mut sums);
            at += n;
        }
        Ok(())
    }

    /// What each output is multiplied by, in the order of the adapter.
    fn outputs<'m>(&self, magnitude: &'m Magnitude) -> ReadResult<&'m [f64]> {
        let found = magnitude.factors.get_or_init(|| {
            let (rows, columns) = (self.product.rows, self.product.columns);
            let mut squares = vec![0.0; if magnitude.by_column { columns } else { rows }];
            let len = rows * columns;
            for start in (0..len).step_by(PIECE) {
                self.sums(start..len.min(start + PIECE), &mut |at, values| match magnitude.by_column {
                    true => {
                        let squares = &mut squares[at % columns..];
                        squares.iter_mut().zip(values.iter()).for_each(|(sum, x)| *sum += x * x);
                    }
                    false => {
                        let row = at / columns;
                        let row = self.order.map_or(row, |order| order.source_row(row));
                        squares[row] += values.iter().map(|x| x * x).sum::<f64>();
                    }
                })?;
            }
            let magnitudes = magnitude.input.to_f32()?;
            Ok(squares.iter().zip(magnitudes).map(|(square, m)| f64::from(m) / square.sqrt()).collect())
        });
        found.as_deref().map_err(Clone::clone)
    }
}

impl Make for Merged {
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let Some(magnitude) = &self.magnitude else {
            return self.sums(range, &mut |_, values| take(values));
        };
        let (factors, columns) = (self.outputs(magnitude)?, self.product.columns);
        self.sums(range, &mut |at, values| {
            match magnitude.by_column {
                true => values.iter_mut().zip(&factors[at % columns..]).for_each(|(x, factor)| *x *= factor),
                false => {
                    let row = at / columns;
                    let factor = factors[self.order.map_or(row, |order| order.source_row(row))];
                    values.iter_mut().for_each(|x| *x *= factor);
                }
            }
            take(values);
        })
    }
}

/// A bias with a change.
#[derive(Debug)]
struct Shifted {
    base: Input,
    by: Input,
    scaling: f64,
    order: Option<Rotary>,
}

impl Make for Shifted {
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let by = self.by.to_f32()?;
        let mut values = self.base.numbers(range.clone())?;
        for (value, at) in values.iter_mut().zip(range) {
            let from = self.order.map_or(at, |order| order.source_row(at));
            *value += self.scaling * f64::from(by[from]);
        }
        take(&values);
        Ok(())
    }
}

/// A tensor of an adapter, in the order of the base.
#[derive(Debug)]
struct Copied {
    input: Input,
    order: Option<Rotary>,
}

impl Make for Copied {
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let Some(order) = self.order else {
            take(&self.input.numbers(range)?);
            return Ok(());
        };
        let columns = self.input.tensor().shape[1..].iter().product::<usize>().max(1);
        let mut at = range.start;
        while at < range.end {
            let (row, first) = (at / columns, at % columns);
            let n = (columns - first).min(range.end - at);
            let from = order.source_row(row) * columns + first;
            take(&self.input.numbers(from..from + n)?);
            at += n;
        }
        Ok(())
    }
}

/// An adapter that was merged.
#[derive(Clone, Debug)]
struct LoraMerged {
    adapter: String,
    base: Option<String>,
    modules: usize,
    dora: usize,
    replaced: usize,
    tensors: usize,
}

impl fmt::Display for LoraMerged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.dora > 0 { "DoRA" } else { "LoRA" };
        let plural = if self.modules == 1 { "" } else { "s" };
        write!(f, "merged {kind} of {} module{plural} from {}", self.modules, self.adapter.escape_debug())?;
        match self.replaced {
            0 => Ok(()),
            n => write!(f, ", which replaces {}", tensors(n)),
        }
    }
}

impl Change for LoraMerged {
    fn record(&self) -> serde_json::Value {
        json!({
            "edit": ROW.flag,
            "adapter": self.adapter,
            "trained_for": self.base,
            "modules": self.modules,
            "dora": self.dora,
            "replaced": self.replaced,
            "tensors": self.tensors,
        })
    }
}
