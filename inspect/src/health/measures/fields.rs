//! The measures that rules judge by, which are fields of the record: moments and counts of the elements, and what a
//! ternary matrix makes of them.

use super::Place::{Csv, Details, Layers, List, Narrow, Page, Table, Wide};
use super::Value::{Count, Real};
use super::{Form, Measure, Part, Place, Source, Value};
use crate::record::TensorRecord;

/// A measure of the elements.
const fn element(
    key: &'static str,
    name: &'static str,
    form: Form,
    places: &'static [Place],
    explanation: &'static str,
    read: fn(&TensorRecord) -> Option<Value>,
) -> Measure {
    let (part, source) = (Part::Elements, Source::Field(read));
    Measure { key, heading: name, label: name, explanation, form, part, places, source }
}

/// A measure of the codes.
const fn code(
    key: &'static str,
    name: &'static str,
    form: Form,
    places: &'static [Place],
    explanation: &'static str,
    read: fn(&TensorRecord) -> Option<Value>,
) -> Measure {
    Measure { part: Part::Codes, ..element(key, name, form, places, explanation, read) }
}

pub(super) const COUNT: Measure =
    element("count", "elements", Form::Count, &[Csv, Details], "Number of elements, finite or not.", |t| {
        Some(Count(t.stats.as_ref()?.count))
    });

pub(super) const MEAN: Measure =
    element("mean", "mean", Form::Real, &[Csv, Wide, Details, Page], "Mean of the finite elements.", |t| {
        t.stats.as_ref()?.mean.map(Real)
    });

/// The measure that verdicts are based on and trends are drawn of.
pub const STD: Measure = element(
    "std",
    "std",
    Form::Real,
    &[Csv, Layers, Narrow, Table, Details, Page],
    "Unbiased standard deviation of the elements. Matrices of ternary layers are judged by it; other matrices by \
     std × √fan_in, since a trained matrix has about 1/√fan_in.",
    |t| t.stats.as_ref()?.std.map(Real),
);

pub(super) const MIN: Measure =
    element("min", "min", Form::Real, &[Csv, Details, Page], "Smallest finite element.", |t| {
        t.stats.as_ref()?.min.map(Real)
    });

pub(super) const MAX: Measure =
    element("max", "max", Form::Real, &[Csv, Details, Page], "Largest finite element.", |t| {
        t.stats.as_ref()?.max.map(Real)
    });

pub(super) const ABS_MEAN: Measure =
    element("abs_mean", "mean |w|", Form::Real, &[Csv, Details, Page], "Mean of the magnitudes.", |t| {
        t.stats.as_ref()?.abs_mean.map(Real)
    });

pub(super) const ABS_MAX: Measure =
    element("abs_max", "max |w|", Form::Real, &[Csv, Page], "Largest finite magnitude.", |t| {
        t.stats.as_ref()?.abs_max.map(Real)
    });

pub(super) const ZEROS: Measure = element(
    "zeros",
    "zeros",
    Form::Part,
    &[Csv, Details, Page],
    "Elements that are 0, of either sign.",
    |t| Some(Count(t.stats.as_ref()?.zeros)),
);

pub(super) const ZERO_SHARE: Measure = element(
    "zero_share",
    "zero",
    Form::Share,
    &[List, Table],
    "The share of elements that are 0; for a ternary matrix, the share that quantizes to 0.",
    |t| match (&t.ternary, &t.stats) {
        (Some(ternary), _) => Some(Real(ternary.zero)),
        (None, Some(stats)) if stats.count > 0 => Some(Real(stats.zeros as f64 / stats.count as f64)),
        _ => None,
    },
);

pub(super) const NAN: Measure =
    element("nan", "NaN", Form::Faults, &[Csv, Details, Page], "Elements that are not a number.", |t| {
        Some(Count(t.stats.as_ref()?.nan))
    });

pub(super) const INF: Measure = Measure {
    label: "Inf",
    ..element("inf", "infinite", Form::Faults, &[Csv, Details, Page], "Infinite elements.", |t| {
        Some(Count(t.stats.as_ref()?.inf))
    })
};

pub(super) const NEG: Measure =
    code("neg", "-1", Form::Share, &[Csv, Page], "The share of -1.", |t| Some(Real(t.ternary.as_ref()?.neg)));

pub(super) const ZERO: Measure =
    code("zero", "0", Form::Share, &[Csv, Page], "The share of 0.", |t| Some(Real(t.ternary.as_ref()?.zero)));

pub(super) const POS: Measure =
    code("pos", "+1", Form::Share, &[Csv, Page], "The share of +1.", |t| Some(Real(t.ternary.as_ref()?.pos)));

pub(super) const ENTROPY_BITS: Measure = code(
    "entropy_bits",
    "entropy",
    Form::Bits { most: 1.585 },
    &[Csv, Table, Page],
    "Shannon entropy of the shares of -1, 0 and +1.",
    |t| Some(Real(t.ternary.as_ref()?.entropy_bits)),
);

pub(super) const SCALE: Measure = code(
    "scale",
    "scale",
    Form::Scale,
    &[Page],
    "The magnitude that codes of -1 and +1 stand for: mean |W|, or the packing's scale.",
    |t| t.ternary.as_ref()?.scale.map(Real),
);

pub(super) const DEAD_ROWS: Measure = code(
    "dead_rows",
    "dead rows",
    Form::Rows,
    &[Csv, Table, Page],
    "Rows whose codes are all 0: outputs that never fire.",
    |t| Some(Count(t.ternary.as_ref()?.dead_rows)),
);

pub(super) const DEAD_COLS: Measure = Measure {
    label: "dead cols",
    ..code(
        "dead_cols",
        "dead columns",
        Form::Columns,
        &[Csv, Table, Page],
        "Columns whose codes are all 0: inputs that are ignored.",
        |t| Some(Count(t.ternary.as_ref()?.dead_cols)),
    )
};
