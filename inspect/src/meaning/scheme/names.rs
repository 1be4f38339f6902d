//! What quantizers call the scales of codes. Roles, rules and schemes know them from here.

/// A name of scales.
pub(crate) struct Scale {
    /// The last part of the tensor's name.
    pub last: &'static str,
    /// The same in words.
    pub words: &'static str,
    /// Whether codes of a weight are multiplied by it, rather than activations or caches.
    pub of_weight: bool,
    /// Whether a tensor called so belongs to codes and to nothing else.
    pub certain: bool,
}

/// Names that tell by themselves that a tensor is a scale.
pub(crate) static SCALES: [Scale; COUNT] = {
    const fn scale(last: &'static str, words: &'static str, of_weight: bool, certain: bool) -> Scale {
        Scale { last, words, of_weight, certain }
    }
    [
        scale("weight_scale", "weight scale", true, true),
        scale("weight_scale_inv", "weight scale inv", true, true),
        scale("weight_scale_2", "weight scale 2", true, true),
        scale("weight_global_scale", "weight global scale", true, true),
        scale("weights_scaling_factor", "weights scaling factor", true, true),
        scale("qscale_weight", "qscale weight", true, true),
        scale("absmax", "absmax", true, true),
        scale("nested_absmax", "nested absmax", true, true),
        scale("SCB", "scb", true, true),
        scale("scales", "scales", true, false),
        scale("global_scale", "global scale", true, false),
        scale("input_scale", "input scale", false, false),
        scale("output_scale", "output scale", false, false),
        scale("in_scale", "in scale", false, false),
        scale("scale_input", "scale input", false, false),
        scale("activation_scale", "activation scale", false, false),
        scale("activation_scaling_factor", "activation scaling factor", false, false),
        scale("kv_cache_scaling_factor", "kv cache scaling factor", false, false),
        scale("q_scale", "q scale", false, false),
        scale("k_scale", "k scale", false, false),
        scale("v_scale", "v scale", false, false),
        scale("qscale_act", "qscale act", false, false),
    ]
};
const COUNT: usize = 22;

/// Those names in words.
pub(crate) static SCALES_IN_WORDS: [&str; COUNT] = {
    let mut words = [""; COUNT];
    let mut at = 0;
    while at < COUNT {
        words[at] = SCALES[at].words;
        at += 1;
    }
    words
};

/// Names that are a weight's scale only where codes stand beside them.
const BESIDE_CODES: [&str; 3] = ["scale", "w_scale", "scaling_factor"];

/// What is in names of the numbers that codes are nothing without, whoever wrote them: a scale, the largest magnitude, a
/// zero point.
const OF_CODES: [&str; 6] = ["absmax", "amax", "offset", "quant", "scal", "zero"];
/// What is in those of numbers that are subtracted from codes, or added.
const SHIFTS: [&str; 4] = ["offset", "zero", "zp", "shift"];

/// What else belongs to codes and to nothing else: zero points, and which elements the scales are of.
const OTHERS: [&str; 4] = ["weight_zero_point", "weight_g_idx", "qzeros", "g_idx"];

/// What is rounded besides weights, as it is called in names of the numbers that this takes,
const ACTIVATIONS: [&str; 14] = [
    "act",
    "activation",
    "in",
    "input",
    "k",
    "k_cache",
    "kv",
    "kv_cache",
    "output",
    "prob",
    "prob_output",
    "q",
    "v",
    "v_cache",
];
/// and what follows that in them.
const OF_ACTIVATIONS: [&str; 8] = [
    "_g_idx",
    "_global_scale",
    "_offset",
    "_rcp_scaling_factor",
    "_scale",
    "_scale_inv",
    "_scaling_factor",
    "_zero_point",
];
/// Those that say it the other way round.
const OTHERWISE: [&str; 2] = ["qscale_act", "scale_input"];
/// What the largest magnitude is called that was seen of something: of what is rounded, unless it is of weights.
const LARGEST: &str = "amax";

/// Whether the tensor called `name` says how activations or caches are rounded, where weights are quantized: a scale, a zero
/// point or an index, such as `input_scale` and `k_scale`. It belongs to no weight.
pub fn is_of_activations(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let of = |field: &&str| last.strip_suffix(*field).is_some_and(|of| ACTIVATIONS.contains(&of));
    let of_weights = || name.rsplit('.').take(2).any(|part| part.contains("weight"));
    let is_largest = || last.trim_start_matches('_') == LARGEST || last.ends_with("_amax");
    OTHERWISE.contains(&last) || OF_ACTIVATIONS.iter().any(of) || is_largest() && !of_weights()
}

/// What may be called the scale of a weight that stands beside it.
pub(crate) fn beside_weights() -> impl Iterator<Item = &'static str> {
    SCALES.iter().filter(|scale| scale.of_weight).map(|scale| scale.last).chain(BESIDE_CODES)
}

/// Whether a tensor whose name ends so belongs to codes, and to nothing else.
pub(crate) fn is_companion(last: &str) -> bool {
    SCALES.iter().any(|scale| scale.certain && scale.last == last) || OTHERS.contains(&last)
}

/// Whether a tensor whose name ends so, beside what may be codes, makes it codes: numbers of some scheme, if not those of
/// caches.
pub(super) fn is_of_codes(last: &str) -> bool {
    let lower = last.to_ascii_lowercase();
    let of_input = ["act", "in"].iter().any(|input| lower.starts_with(input));
    let is_sign = OF_CODES.iter().any(|sign| lower.contains(sign)) || lower == "s" || lower.ends_with("_s");
    is_sign && (of_input || !is_of_activations(last))
}

/// Whether a tensor whose name ends so is subtracted from codes of a weight, or added.
pub(super) fn is_shift(last: &str) -> bool {
    let lower = last.to_ascii_lowercase();
    SHIFTS.iter().any(|sign| lower.contains(sign)) && !is_of_activations(last)
}
