//! Zero where a network's designers let it begin at zero: it has not been trained, which is no disease. Adapters' second
//! factors, adaLN-Zero's modulation, zero convolutions, position tables that begin at zero. Where the same matrix of most
//! other layers is not zero, the network was trained and this one was not: that is none of it. Whatever is of one value
//! at step 0 has not been trained either.

use super::{Check, MATRICES, Matrix, Rule, Ruling};
use crate::meaning::role::{Role, is_table_of_places, is_zero_at_first};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "untrained",
    summary: "A matrix that is initialised to zero by design is still zero, or a matrix at step 0 has one value throughout.",
    levels: &[Verdict::Untrained],
    roles: MATRICES,
    check: Check::Matrix(|matrix, _| {
        let at_start = matrix.is_constant() && matrix.is_at_step_0();
        let at_zero = matrix.is_zero() && begins_at_zero(matrix) && !has_codes(matrix.tensor);
        (at_start || at_zero).then(|| Ruling::new(Verdict::Untrained, Finding::Untrained))?
    }),
};

/// Whether the zeros of `tensor` are what different codes stand for: it was something, and what they are multiplied by is lost.
pub(super) fn has_codes(tensor: &TensorRecord) -> bool {
    let codes = tensor.quantized.as_ref().and_then(|quantized| quantized.codes);
    codes.is_some_and(|codes| codes.equal.is_none())
}

fn begins_at_zero(matrix: &Matrix<'_>) -> bool {
    let named = matrix.role() != Role::Router && is_zero_at_first(&matrix.tensor.name);
    let alone = |(network, i): (&super::Network<'_>, usize)| {
        network.siblings(i).is_some_and(|siblings| siblings.alive >= 2 * siblings.zero)
    };
    let name = &matrix.tensor.name;
    let trained = || matrix.among.is_some_and(|(network, _)| network.trained() == Some(true));
    match matrix.role() {
        Role::LoraB => true,
        Role::Positional => !is_table_of_places(name) || !trained(),
        Role::Codebook => !matrix.among.is_some_and(alone) || is_not_filled_yet(matrix),
        Role::Head if is_beside_drawn(matrix) => false,
        _ => named && !matrix.among.is_some_and(alone) && !(is_last_of_all(name) && trained()),
    }
}

/// Whether a last layer has a bias that was drawn, and was not zero itself then.
fn is_beside_drawn(matrix: &Matrix<'_>) -> bool {
    matrix.among.is_some_and(|(network, _)| network.has_drawn_bias(matrix.tensor))
}

/// Whether a codebook waits for the vectors that it begins with.
fn is_not_filled_yet(matrix: &Matrix<'_>) -> bool {
    let module = matrix.tensor.name.rsplit_once('.').map_or("", |(module, _)| module);
    let flag = |name: &&str| {
        let flag = matrix.among.and_then(|(network, _)| network.named(&format!("{module}.{name}")));
        flag.and_then(|flag| flag.stats.as_ref()).is_some_and(|stats| stats.abs_max == Some(0.0))
    };
    ["inited", "initted", "initialized"].iter().any(flag)
}

/// Whether `name` is of the last convolution of a network for images, which nothing else stands in for.
fn is_last_of_all(name: &str) -> bool {
    name.matches('.').count() <= 2
        && (name == "conv_out.weight" || name.ends_with(".conv_out.weight"))
        && !name.contains("cond_embedding")
}
