//! The rules that verdicts follow from, a file each: what each one looks at, and what it says. All of [`RULES`] are asked
//! that are not switched off; the worst answer decides, the first of the table among equals. A new one is a file, its line in the table, and its
//! variant of [`Finding`].

mod always_there;
mod architecture;
mod beyond_reason;
mod constant;
mod constant_columns;
mod constant_hole;
mod contradiction;
mod damaged;
mod empty;
mod equal_layers;
mod equal_rows;
mod experts;
mod far_value;
mod fresh_branch;
mod gains_at_zero;
mod gaps;
mod hardly_begun;
mod large_relative_std;
mod masked_out;
mod misread;
mod missing;
mod missing_keys;
mod missing_parts;
mod nan_scale;
mod network;
mod not_finite;
mod one_direction;
mod promised;
mod quant_blocks;
mod quant_codes;
mod quant_parts;
mod quant_scales;
mod refused;
mod saturated;
mod scale_lost;
mod siblings;
mod small_relative_std;
mod small_std;
mod unlike_gains;
mod unlike_shape;
mod untrained;
mod variance;
mod whole_numbers;
mod zero_codes;
mod zero_hole;
mod zero_rows;

use super::off::Off;
use crate::DType;
use crate::meaning::role::{Role, is_fused};
use crate::meaning::scheme::names::beside_weights;
use crate::record::{CheckpointRecord, Stats, TensorRecord, Ternary};
use crate::tensor::Group;
use crate::verdict::{Finding, Thresholds, Verdict};
pub(crate) use network::Network;

/// One rule.
pub struct Rule {
    /// Its name, which is that of its finding.
    pub name: &'static str,
    /// What it finds, in a sentence.
    pub summary: &'static str,
    /// The verdicts that it gives, the best first; none if it says that a tensor cannot be judged.
    pub levels: &'static [Verdict],
    /// The roles of the tensors that it speaks of, besides matrices that a BitLinear uses; none if it may be any, or if it
    /// speaks of the whole.
    pub roles: &'static [Role],
    check: Check,
}

impl Rule {
    /// Whether it speaks of the checkpoint as a whole.
    pub fn is_of_whole(&self) -> bool {
        matches!(self.check, Check::Whole(_))
    }

    /// Whether it may say `ruling`, of a tensor or of the whole.
    fn may_say(&self, ruling: &Ruling, tensor: Option<&TensorRecord>) -> bool {
        let role =
            |t: &TensorRecord| self.roles.is_empty() || self.roles.contains(&t.role) || t.ternary.is_some();
        ruling.verdict.is_none_or(|verdict| self.levels.contains(&verdict)) && tensor.is_none_or(role)
    }
}

/// [`MATRICES`], and tensors of which it is not known whether they are such.
const MAYBE_MATRICES: &[Role] = &[
    Role::Matrix,
    Role::Convolution,
    Role::Embedding,
    Role::Head,
    Role::Positional,
    Role::Router,
    Role::LoraA,
    Role::LoraB,
    Role::Codes,
    Role::Codebook,
    Role::Unknown,
];
/// The matrices, kernels and tables that a network's knowledge is in.
const MATRICES: &[Role] = MAYBE_MATRICES.split_at(MAYBE_MATRICES.len() - 1).0;
/// Those of them that multiply activations as they stand.
const PLAIN: &[Role] = &[Role::Matrix, Role::Convolution, Role::Head, Role::Router];

/// Matrices of no more rows, and more columns, give answers.
const FEW_OUTPUTS: u64 = 8;

/// How far the sum of a kernel that takes a mean may be from 1, and its elements from each other, in means.
const NEAR_ONE: f64 = 0.6;
const NEAR_EACH_OTHER: f64 = 0.25;

/// How many rules there are.
pub(crate) const COUNT: usize = 42;

/// Every rule, in the order in which they are asked.
pub static RULES: [Rule; COUNT] = [
    damaged::RULE,
    quant_parts::RULE,
    quant_scales::RULE,
    empty::RULE,
    not_finite::RULE,
    nan_scale::RULE,
    untrained::RULE,
    fresh_branch::RULE,
    hardly_begun::RULE,
    constant::RULE,
    masked_out::RULE,
    zero_codes::RULE,
    scale_lost::RULE,
    quant_codes::RULE,
    quant_blocks::RULE,
    misread::RULE,
    whole_numbers::RULE,
    saturated::RULE,
    beyond_reason::RULE,
    far_value::RULE,
    zero_hole::RULE,
    constant_hole::RULE,
    zero_rows::RULE,
    equal_rows::RULE,
    experts::RULE,
    constant_columns::RULE,
    one_direction::RULE,
    small_std::RULE,
    small_relative_std::RULE,
    large_relative_std::RULE,
    siblings::RULE,
    equal_layers::RULE,
    gains_at_zero::RULE,
    unlike_gains::RULE,
    variance::RULE,
    missing::RULE,
    missing_keys::RULE,
    unlike_shape::RULE,
    promised::RULE,
    architecture::RULE,
    refused::RULE,
    contradiction::RULE,
];

/// Takes what a rule says of the tensor at a place.
type Tell<'t> = &'t mut dyn FnMut(usize, Option<Ruling>);

/// What a rule looks at.
enum Check {
    /// Any tensor, whether it was measured or not.
    Tensor(fn(&TensorRecord) -> Option<Ruling>),
    /// The elements of a tensor.
    Elements(fn(&TensorRecord, &Stats) -> Option<Ruling>),
    /// A matrix, or what has more dimensions, of real weights.
    Matrix(fn(&Matrix<'_>, &Thresholds) -> Option<Ruling>),
    /// All tensors together. It tells of which one it says something.
    Network(fn(&Network<'_>, Tell<'_>)),
    /// All tensors together. What it says is of the whole.
    Whole(fn(&Network<'_>) -> Vec<Ruling>),
}

/// What a rule says. Without a verdict, that the tensor cannot be judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ruling {
    pub verdict: Option<Verdict>,
    pub finding: Finding,
}

impl Ruling {
    fn new(verdict: Verdict, finding: Finding) -> Option<Self> {
        Some(Ruling { verdict: Some(verdict), finding })
    }

    fn undecided(finding: Finding) -> Option<Self> {
        Some(Ruling { verdict: None, finding })
    }
}

/// The measurements of a weight that has the shape of a matrix, or more dimensions.
pub(crate) struct Matrix<'t> {
    tensor: &'t TensorRecord,
    stats: &'t Stats,
    ternary: Option<&'t Ternary>,
    std: f64,
    min: f64,
    max: f64,
    /// The network that it is judged in, and its place there.
    among: Option<Among<'t>>,
}

/// A network, and the place of a tensor in it.
type Among<'t> = (&'t Network<'t>, usize);

impl<'t> Matrix<'t> {
    /// `None` for vectors, for codes of an integer layer, masks and indices, whose spread says nothing, and for what was
    /// not measured.
    fn of(tensor: &'t TensorRecord, among: Option<Among<'t>>) -> Option<Self> {
        let stats = tensor.stats.as_ref()?;
        let real = !tensor.dtype.is_integer() && tensor.dtype != DType::Bool;
        let dims = tensor.shape.iter().filter(|&&d| d > 1).count();
        let is_weight =
            tensor.group == Group::Weights && (tensor.role.is_matrix() || tensor.ternary.is_some());
        let matrix = is_weight && tensor.shape.len() >= 2 && dims > 0;
        (real && matrix && stats.count >= 2).then_some(())?;
        let (std, min, max) = (stats.std?, stats.min?, stats.max?);
        Some(Matrix { tensor, stats, ternary: tensor.ternary.as_deref(), std, min, max, among })
    }

    fn role(&self) -> Role {
        self.tensor.role
    }

    /// Whether it multiplies activations as it stands: no table, no factor of an adapter, no codes, nothing complex.
    fn is_plain(&self) -> bool {
        self.ternary.is_none()
            && !self.tensor.dtype.is_complex()
            && matches!(self.role(), Role::Matrix | Role::Convolution | Role::Head | Role::Router)
    }

    /// Whether all of it is one value.
    fn is_constant(&self) -> bool {
        self.min == self.max
    }

    fn is_zero(&self) -> bool {
        self.min == 0.0 && self.max == 0.0
    }

    /// Whether it holds the experts of a layer, one after the other.
    fn is_of_experts(&self) -> bool {
        self.tensor.shape.len() == 3 && self.role() == Role::Matrix && self.tensor.name.contains("experts")
    }

    /// Whether it is a convolution of which channels died in training.
    fn has_faded_channels(&self) -> bool {
        self.role() == Role::Convolution
            && self.among.is_some_and(|(network, i)| network.has_faded_channels(i))
    }

    /// Whether it is a convolution that nothing trains: the same filter for each channel alone, as blurs and wavelets are,
    /// with no bias beside it; or the same for each channel on the diagonal and zeros elsewhere, as what interpolates and
    /// what passes on. Kernels that learn see other inputs each, and do not stay equal.
    fn is_fixed_filter(&self) -> bool {
        let Some(structure) = &self.tensor.structure else { return false };
        let [rows, inputs, kernel @ ..] = self.tensor.shape.as_slice() else { return false };
        if self.role() != Role::Convolution || *rows < 2 {
            return false;
        }
        let module = self.tensor.name.strip_suffix("weight").unwrap_or(&self.tensor.name);
        let plain = self.among.is_some_and(|(network, i)| {
            network.named(&format!("{module}bias")).is_none() && !network.is_normalized(i)
        });
        let equal = structure.equal_rows + 1 >= structure.sampled_rows;
        let depthwise = *inputs == 1 && plain && (equal || self.is_constant()) && !self.is_zero();
        // As many elements as a diagonal of kernels has, of which each row has some.
        let of_kernel: u64 = kernel.iter().product();
        let nonzero = self.stats.count - self.stats.zeros.min(self.stats.count);
        let diagonal = rows == inputs && *rows > 2 && nonzero <= rows * of_kernel;
        let covered =
            nonzero >= *rows && structure.zero_rows == 0 && structure.zero_cols < (rows - 1) * of_kernel;
        depthwise || (diagonal && covered)
    }

    /// Whether it is a kernel of one input and one output that takes the mean of what it sees, as what stretches a signal
    /// smooths it, also once it has moved by some steps: all of it is positive and it sums to about 1.
    fn is_average(&self) -> bool {
        let one_channel = matches!(self.tensor.shape.as_slice(), [1, 1, kernel @ ..] if !kernel.is_empty());
        let sum = self.stats.mean.unwrap_or_default() * self.stats.count as f64;
        let near = self.std * self.stats.count as f64 <= NEAR_EACH_OTHER;
        self.role() == Role::Convolution
            && one_channel
            && self.min > 0.0
            && near
            && (sum - 1.0).abs() <= NEAR_ONE
    }

    /// Whether it is a last layer: by its name or place, or because it has few outputs. Not told of a tensor by itself.
    fn is_last(&self) -> bool {
        let Some((network, i)) = self.among else { return false };
        let (rows, cols) = (self.tensor.shape[0], self.tensor.shape[1..].iter().product::<u64>());
        let few_outputs = rows <= FEW_OUTPUTS && cols >= 2 * rows;
        self.role() == Role::Head || few_outputs || network.beside(i).is_some_and(|beside| beside.is_last)
    }

    /// Whether it is of a network that shows that it has not been trained.
    fn is_untrained(&self) -> bool {
        self.among.is_some_and(|(network, _)| network.trained() == Some(false))
    }

    /// Whether it holds queries beside keys and values in a network that has not been trained, and those begin at zero, as under
    /// the maximal update parametrization: the first third of its rows or of its columns.
    fn begins_in_part(&self) -> bool {
        let cols: u64 = self.tensor.shape[1..].iter().product();
        let measured = |name: &str| self.stats.computed.get(name);
        let of_rows = measured("zero_run_at") == Some(0.0)
            && measured("zero_run").is_some_and(|run| 3.0 * run == self.stats.count as f64);
        let of_cols =
            || self.tensor.structure.as_ref().is_some_and(|structure| 3 * structure.zero_cols == cols);
        (of_rows || of_cols()) && is_fused(&self.tensor.name) && self.is_untrained()
    }

    /// Whether it is of a checkpoint that says that no step has been taken.
    fn is_at_step_0(&self) -> bool {
        self.among.is_some_and(|(network, _)| network.is_at_step_0())
    }

    /// Whether a scale stands beside it.
    fn has_scale(&self) -> bool {
        let module = self.tensor.name.strip_suffix("weight").unwrap_or(&self.tensor.name);
        self.among.is_some_and(|(network, _)| {
            beside_weights().any(|name| network.named(&format!("{module}{name}")).is_some())
        })
    }
}

/// What is said of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Judgement {
    /// How it is judged; `None` where its health is not judged.
    pub verdict: Option<Verdict>,
    /// Why it is not healthy, or not judged, worst first.
    pub findings: Vec<Finding>,
}

/// Findings that are kept of one tensor.
const KEPT: usize = 4;

impl Judgement {
    /// Of `tensor`, of which `rulings` are all.
    fn of(tensor: &TensorRecord, mut rulings: Vec<Ruling>) -> Self {
        // Of what is not read, nothing else is known either.
        let unread = |r: &Ruling| matches!(&r.finding, Finding::QuantParts { fault } if fault.is_of_reader());
        if rulings.iter().any(unread) {
            rulings.retain(|r| unread(r) || matches!(r.finding, Finding::Damaged { .. }));
        }
        // What begins at zero may be of one value, then and at a first step; and what is of one value is small and has equal rows for that reason.
        if rulings.iter().any(|r| matches!(r.finding, Finding::Untrained | Finding::Begun { .. })) {
            rulings.retain(|r| !matches!(r.finding, Finding::Constant { .. }));
        }
        let whole = |r: &Ruling| {
            use Finding::*;
            matches!(
                r.finding,
                Constant { .. } | EqualCodes { .. } | Untrained | Begun { .. } | MaskedOut | Empty
            )
        };
        if let Some(decided) = rulings.iter().position(whole) {
            let decided = rulings.swap_remove(decided);
            rulings.retain(|r| {
                use Finding::*;
                matches!(r.finding, Damaged { .. } | NotFinite { .. } | QuantScales { .. } | NanScale)
            });
            rulings.push(decided);
        }
        rulings.sort_by_key(|r| std::cmp::Reverse(r.verdict));
        let verdict = match rulings.first() {
            Some(worst) => worst.verdict,
            None => Matrix::of(tensor, None).map(|_| Verdict::Healthy),
        };
        rulings.truncate(KEPT);
        Judgement { verdict, findings: rulings.into_iter().map(|r| r.finding).collect() }
    }
}

fn rulings(tensor: &TensorRecord, among: Option<Among<'_>>, thresholds: &Thresholds) -> Vec<Ruling> {
    let elements = tensor.stats.as_ref();
    let matrix = Matrix::of(tensor, among);
    let ask = |rule: &Rule| match rule.check {
        Check::Tensor(check) => check(tensor),
        Check::Elements(check) => check(tensor, elements?),
        Check::Matrix(check) => check(matrix.as_ref()?, thresholds),
        Check::Network(_) | Check::Whole(_) => None,
    };
    let asked = RULES.iter().enumerate().filter(|(at, _)| !thresholds.off.has(*at));
    let told = asked.filter_map(|(_, rule)| {
        let ruling = ask(rule)?;
        debug_assert!(rule.may_say(&ruling, Some(tensor)), "{} of {}: {ruling:?}", rule.name, tensor.name);
        Some(ruling)
    });
    told.collect()
}

/// Judges one tensor by itself. No verdict where health is not judged: optimizer state, other tensors, vectors that hold
/// only finite numbers, and whatever was not measured. Ternary codes whose scale is lost are judged dead or, with
/// that finding, not at all.
pub fn judge_tensor(tensor: &TensorRecord, thresholds: &Thresholds) -> Judgement {
    Judgement::of(tensor, rulings(tensor, None, thresholds))
}

/// Judges every tensor of `record`, by itself and among the others, and the whole. `thresholds` are each tensor's; rules that
/// are `off` are not asked, whatever they say.
pub fn judgements<'r>(
    record: &'r CheckpointRecord,
    thresholds: &dyn Fn(&'r TensorRecord) -> Thresholds,
    off: Off,
) -> (Vec<Judgement>, Judgement) {
    let network = Network::of(record);
    let rulings = |(i, tensor): (usize, &'r TensorRecord)| {
        rulings(tensor, Some((&network, i)), &Thresholds { off, ..thresholds(tensor) })
    };
    let mut of_tensors: Vec<Vec<Ruling>> = record.tensors.iter().enumerate().map(rulings).collect();
    let mut of_whole = Vec::new();
    for (_, rule) in RULES.iter().enumerate().filter(|(at, _)| !off.has(*at)) {
        let may_say = |r: &Ruling, tensor| debug_assert!(rule.may_say(r, tensor), "{}: {r:?}", rule.name);
        match rule.check {
            Check::Network(check) => check(&network, &mut |i, ruling| {
                ruling.iter().for_each(|r| may_say(r, Some(network.tensor(i))));
                of_tensors[i].extend(ruling);
            }),
            Check::Whole(check) => {
                let told = check(&network);
                told.iter().for_each(|r| may_say(r, None));
                of_whole.extend(told);
            }
            _ => {}
        }
    }
    let of_tensors: Vec<Judgement> = record
        .tensors
        .iter()
        .zip(of_tensors)
        .map(|(tensor, rulings)| Judgement::of(tensor, rulings))
        .collect();
    let worst =
        of_whole.iter().filter_map(|r| r.verdict).chain(of_tensors.iter().filter_map(|j| j.verdict)).max();
    let findings = of_whole.into_iter().map(|r| r.finding).collect();
    (of_tensors, Judgement { verdict: worst, findings })
}
