//! The rules that verdicts follow from, a file each. They are asked in the order of [`RULES`], and the first one that has
//! something to say of a tensor decides. A new one is a file, its line in the table, and its variant of [`Finding`].

mod constant;
mod damaged;
mod not_finite;
mod scale_lost;
mod small_relative_std;
mod small_std;
mod zero_codes;

use crate::DType;
use crate::record::{Stats, TensorRecord, Ternary};
use crate::tensor::Group;
use crate::verdict::{Finding, Thresholds, Verdict};

/// Every rule, in the order in which they are asked.
static RULES: [Rule; 7] = [
    damaged::RULE,
    not_finite::RULE,
    constant::RULE,
    zero_codes::RULE,
    scale_lost::RULE,
    small_std::RULE,
    small_relative_std::RULE,
];

/// One rule.
enum Rule {
    /// It looks at any tensor, whether it was measured or not.
    Tensor(fn(&TensorRecord) -> Option<Ruling>),
    /// It looks at the elements of weights and of optimizer state.
    Elements(fn(&Stats) -> Option<Ruling>),
    /// It looks at a matrix, or what has more dimensions, of real weights.
    Matrix(fn(&Matrix<'_>, &Thresholds) -> Option<Ruling>),
}

/// What a rule says. Without a verdict, that the tensor cannot be judged.
pub(super) struct Ruling {
    verdict: Option<Verdict>,
    finding: Finding,
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
pub(super) struct Matrix<'t> {
    tensor: &'t TensorRecord,
    ternary: Option<&'t Ternary>,
    std: f64,
    min: f64,
    max: f64,
}

impl<'t> Matrix<'t> {
    /// `None` for vectors, for codes of an integer layer, masks and indices, whose spread says nothing, and for what was
    /// not measured.
    fn of(tensor: &'t TensorRecord) -> Option<Self> {
        let stats = tensor.stats.as_ref()?;
        let real = !tensor.dtype.is_integer() && tensor.dtype != DType::Bool;
        let dims = tensor.shape.iter().filter(|&&d| d > 1).count();
        let matrix = tensor.group == Group::Weights && tensor.shape.len() >= 2 && dims > 0;
        (real && matrix && stats.count >= 2).then_some(())?;
        let (std, min, max) = (stats.std?, stats.min?, stats.max?);
        Some(Matrix { tensor, ternary: tensor.ternary.as_ref(), std, min, max })
    }
}

/// Judges one tensor. `None` for a verdict where health is not judged: optimizer state, other tensors, vectors
/// that hold only finite numbers, and whatever was not measured. Ternary codes whose scale is lost are judged dead
/// or, with that finding, not at all.
pub fn judge_tensor(tensor: &TensorRecord, thresholds: &Thresholds) -> (Option<Verdict>, Option<Finding>) {
    let elements = tensor.stats.as_ref().filter(|_| tensor.group != Group::Other);
    let matrix = Matrix::of(tensor);
    let ruling = RULES.iter().find_map(|rule| match rule {
        Rule::Tensor(rule) => rule(tensor),
        Rule::Elements(rule) => rule(elements?),
        Rule::Matrix(rule) => rule(matrix.as_ref()?, thresholds),
    });
    match ruling {
        Some(Ruling { verdict, finding }) => (verdict, Some(finding)),
        None => (matrix.map(|_| Verdict::Healthy), None),
    }
}
