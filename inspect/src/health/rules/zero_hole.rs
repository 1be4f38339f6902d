//! A hole: hundreds of zeros in a row in a matrix of a network. A lost block of a file, a failed copy. Tables have rows
//! of zeros where a vocabulary is padded, and any matrix may have some where units died or were taken out, but no hole that
//! begins or ends in the middle of a row; nor have learnt tables of positions.

use super::{Check, Matrix, Rule, Ruling};
use crate::meaning::role::{Role, is_fused};
use crate::verdict::{Finding, Verdict};

/// Shorter runs through at least two rows are no evidence: a page of 4 KiB in f32.
const LONG: f64 = 1024.0;
/// Shorter runs that cut a row are none: a sector of a disk, in bytes.
const SECTOR: u64 = 512;
/// The share of zeros elsewhere from which a matrix is sparse, and from which whole rows of it may be pruned.
const SPARSE: f64 = 0.05;
const PRUNED: f64 = 0.5;
/// The share of an adapter's factor.
const HALF: f64 = 0.45;
/// Rows of a head that are none by chance.
const ROWS: f64 = 8.0;
/// How unlikely it must be that the zeros in the row that is cut are there by chance, as -ln.
const UNLIKELY: f64 = 16.0;

pub(super) const RULE: Rule = Rule {
    name: "zero-hole",
    summary: "A matrix has a long run of zeros through its rows, or one that cuts a row in two.",
    levels: &[Verdict::Dead],
    roles: &[
        Role::Matrix,
        Role::Convolution,
        Role::Head,
        Role::Router,
        Role::Embedding,
        Role::Positional,
        Role::LoraA,
        Role::LoraB,
    ],
    check: Check::Matrix(|matrix, _| {
        let run = matrix.stats.computed.get("zero_run").filter(|run| *run > 0.0)?;
        let cols = *matrix.tensor.shape.last()? as f64;
        let (zeros, count) = (matrix.stats.zeros as f64, matrix.stats.count as f64);
        let pruned = zeros - run >= PRUNED * (count - run);
        let through_rows =
            matrix.is_plain() && matrix.role() != Role::Head && !pruned && run >= LONG.max(2.0 * cols);
        if matrix.is_fixed_filter() || (matrix.has_faded_channels() && !cuts_a_row(matrix, run)) {
            return None;
        }
        if matches!(matrix.role(), Role::LoraA | Role::LoraB) {
            return halves_a_factor(matrix, run).then(|| {
                Ruling::new(Verdict::Dead, Finding::ZeroHole { run: run as u64, count: matrix.stats.count })
            })?;
        }
        if matrix.begins_in_part() {
            return None;
        }
        (through_rows || cuts_a_row(matrix, run) || is_no_padding(matrix, run, cols)).then(|| {
            Ruling::new(Verdict::Dead, Finding::ZeroHole { run: run as u64, count: matrix.stats.count })
        })?
    }),
};

/// Whether nearly half of an adapter's factor is one run of zeros. Ranks that are not used are zero in both factors; factors of
/// tables begin at zero, and what holds queries, keys and values may be an adapter of some of them.
fn halves_a_factor(matrix: &Matrix<'_>, run: f64) -> bool {
    let name = &matrix.tensor.name;
    let other = || {
        let other = name.replace("lora_A", "lora_B").replace("lora_down", "lora_up");
        let other = matrix.among.and_then(|(network, _)| network.named(&other))?;
        Some(other.structure.as_ref()?.zero_cols)
    };
    let padded = matrix.role() == Role::LoraA && other().is_some_and(|zero| zero > 0);
    run >= LONG.max(HALF * matrix.stats.count as f64)
        && !matrix.is_zero()
        && !name.contains("embedding")
        && !is_fused(name)
        && !padded
}

/// Whether a head has a run of zeros that padding cannot be, which stands at the end: a tenth of its rows, before the last
/// tenth.
fn is_no_padding(matrix: &Matrix<'_>, run: f64, cols: f64) -> bool {
    let count = matrix.stats.count as f64;
    let at = matrix.stats.computed.get("zero_run_at").unwrap_or(count);
    matrix.role() == Role::Head && run >= LONG.max(ROWS * cols).max(0.1 * count) && at + run <= 0.9 * count
}

/// Whether the run of zeros begins or ends within a row, and is none that is there by chance.
fn cuts_a_row(matrix: &Matrix<'_>, run: f64) -> bool {
    let (stats, tensor) = (matrix.stats, matrix.tensor);
    let judged = matrix.is_plain() || matches!(matrix.role(), Role::Embedding | Role::Positional);
    let columns = tensor.structure.as_ref().is_none_or(|structure| structure.zero_cols > 0);
    let (Some(at), false) = (stats.computed.get("zero_run_at"), columns) else { return false };
    let bytes_each = tensor.bytes.checked_div(stats.count).unwrap_or(0);
    let row: u64 = match matrix.role() {
        Role::Convolution => tensor.shape[1..].iter().product(),
        _ => tensor.shape.last().copied().unwrap_or(1),
    };
    let (run, at, row) = (run as u64, at as u64, row.max(1));
    let elsewhere = (stats.zeros - run.min(stats.zeros)) as f64 / (stats.count - run).max(1) as f64;
    let share = elsewhere.max(1.0 / stats.count as f64);
    // What the run takes of the row that it begins in, and of the one that it ends in, where these hold more.
    let first = if at.is_multiple_of(row) { 0 } else { run.min(row - at % row) };
    let last = if at / row == (at + run) / row { run } else { (at + run) % row };
    let last = if (at + run).is_multiple_of(row) { 0 } else { last };
    let cut = first.max(last) as f64;
    // Tables of sines begin with some, and have short runs of them.
    let of_sines = matrix.role() == Role::Positional && (at == 0 || run < 2 * row);
    judged && !of_sines && run * bytes_each >= SECTOR && share < SPARSE && cut * -share.ln() > UNLIKELY
}
