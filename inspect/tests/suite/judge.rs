//! The rules that look at the structure of matrices and at several tensors together, on checkpoints made here: what each
//! catches, and what it must let pass.

use ckpt_inspect::{
    CheckpointRecord, Finding, OpenOptions, Options, Role, Thresholds, Verdict, describe, judge,
    open_bytes_with,
};

/// Named f32 tensors as a SafeTensors file, described and judged.
pub(crate) struct Network(pub(crate) Vec<(String, Vec<usize>, Vec<f32>)>);

pub(crate) fn random(n: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| (next() + next() + next()) * scale).collect()
}

impl Network {
    /// A trained one: six layers of attention and MLP, with norms.
    pub(crate) fn new() -> Self {
        let mut network = Network(Vec::new());
        network.add("model.embed_tokens.weight", &[300, 64], random(300 * 64, 0.02, 1));
        for layer in 0..6u64 {
            let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
            for (i, name) in
                ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"].iter().enumerate()
            {
                network.add(&at(name), &[64, 64], random(64 * 64, 0.1, 100 * layer + i as u64 + 2));
            }
            let gains = random(64, 0.05, 1000 + layer).iter().map(|x| 1.0 + x).collect();
            network.add(&at("input_layernorm"), &[64], gains);
        }
        network.add("lm_head.weight", &[300, 64], random(300 * 64, 0.1, 7));
        network
    }

    pub(crate) fn add(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.0.push((name.into(), shape.to_vec(), values));
    }

    pub(crate) fn get(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.0.iter_mut().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("{name}")).2
    }

    pub(crate) fn without(mut self, part: &str) -> Self {
        self.0.retain(|(name, ..)| !name.contains(part));
        self
    }

    pub(crate) fn judged(&self) -> CheckpointRecord {
        self.judged_as("F32", |v| v.to_le_bytes())
    }

    /// The same with its numbers in another type.
    pub(crate) fn judged_as<const N: usize>(
        &self,
        dtype: &str,
        encode: impl Fn(f32) -> [u8; N],
    ) -> CheckpointRecord {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, values) in &self.0 {
            let start = data.len();
            data.extend(values.iter().flat_map(|v| encode(*v)));
            let entry =
                serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        let checkpoint = open_bytes_with("made.safetensors", bytes, &OpenOptions::default()).unwrap();
        let mut record = describe(&checkpoint, Options::default(), &|_| ());
        judge(&mut record, &Thresholds::default());
        record
    }
}

pub(crate) const UP: &str = "model.layers.2.mlp.up_proj.weight";

/// The verdict on the tensor called `name`, and all that was found of it.
pub(crate) fn found(record: &CheckpointRecord, name: &str) -> (Option<Verdict>, Vec<Finding>) {
    let tensor = record.tensors.iter().find(|t| t.name == name).unwrap();
    (tensor.verdict, tensor.finding.as_deref().into_iter().chain(&tensor.also).cloned().collect())
}

#[track_caller]
pub(crate) fn assert_found(
    record: &CheckpointRecord,
    name: &str,
    verdict: Verdict,
    is: impl Fn(&Finding) -> bool,
) {
    let (is_judged, findings) = found(record, name);
    assert_eq!(is_judged, Some(verdict), "{findings:?}");
    assert!(findings.iter().any(is), "{findings:?}");
}

#[track_caller]
pub(crate) fn assert_healthy(network: &Network) -> CheckpointRecord {
    let record = network.judged();
    assert_eq!(record.verdict, Some(Verdict::Healthy), "{:?}", record.reasons);
    record
}

#[test]
fn a_trained_network_is_healthy_and_was_judged_in_whole() {
    let record = assert_healthy(&Network::new());
    assert!(record.coverage.is_whole(), "{}", record.coverage);
    assert_eq!(record.coverage.to_string(), "26 matrices");
}

#[test]
fn a_flipped_bit_of_an_exponent_is_a_far_value() {
    let mut network = Network::new();
    network.get(UP)[77] *= 2f32.powi(40);
    assert_found(&network.judged(), UP, Verdict::Corrupt, |f| matches!(f, Finding::FarValue { .. }));
}

#[test]
fn outliers_a_hundred_times_the_mean_are_not_far() {
    let mut network = Network::new();
    network.get(UP)[77] = 10.0;
    assert_healthy(&network);
}

#[test]
fn a_stretch_of_zeros_is_a_hole_and_pruning_is_none() {
    let mut network = Network::new();
    network.get(UP)[1000..1000 + 1100].fill(0.0);
    assert_found(&network.judged(), UP, Verdict::Dead, |f| matches!(f, Finding::ZeroHole { run: 1100, .. }));
    let mut pruned = Network::new();
    pruned.get(UP).iter_mut().enumerate().filter(|(i, _)| (i + i / 64) % 4 < 2).for_each(|(_, v)| *v = 0.0);
    assert_healthy(&pruned);
}

#[test]
fn rows_of_zeros_are_told_in_matrices_and_pass_in_padded_vocabularies() {
    let mut network = Network::new();
    for row in network.get(UP).chunks_mut(64).step_by(4) {
        row.fill(0.0);
    }
    assert_found(
        &network.judged(),
        UP,
        Verdict::Weak,
        |f| matches!(f, Finding::ZeroRows { rows, .. } if *rows == 0.25),
    );
    let mut padded = Network::new();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        padded.get(name)[200 * 64..].fill(0.0);
    }
    assert_healthy(&padded);
}

#[test]
fn columns_of_zeros_or_of_one_value_are_told() {
    let mut network = Network::new();
    network.get(UP).iter_mut().enumerate().filter(|(i, _)| i % 64 < 40).for_each(|(_, v)| *v = 0.0);
    assert_found(
        &network.judged(),
        UP,
        Verdict::Dead,
        |f| matches!(f, Finding::ZeroRows { columns, .. } if *columns == 0.625),
    );
    let mut network = Network::new();
    network.get(UP).iter_mut().enumerate().filter(|(i, _)| i % 64 < 8).for_each(|(_, v)| *v = 0.02);
    assert_found(
        &network.judged(),
        UP,
        Verdict::Dead,
        |f| matches!(f, Finding::ConstantColumns { share } if *share == 0.125),
    );
}

#[test]
fn equal_rows_are_told_in_matrices_and_pass_for_new_tokens() {
    let mut network = Network::new();
    let row = network.get(UP)[..64].to_vec();
    network.get(UP).chunks_mut(64).for_each(|r| r.copy_from_slice(&row));
    assert_found(&network.judged(), UP, Verdict::Dead, |f| matches!(f, Finding::EqualRows { .. }));
    let mut tokens = Network::new();
    let embedding = tokens.get("model.embed_tokens.weight");
    let row = embedding[..64].to_vec();
    embedding.chunks_mut(64).skip(150).for_each(|r| r.copy_from_slice(&row));
    assert_healthy(&tokens);
}

#[test]
fn one_direction_is_told_whether_alone_or_far_above_others() {
    let mut network = Network::new();
    let (a, b) = (random(64, 1.0, 3), random(64, 0.1, 4));
    let values = network.get(UP);
    values.iter_mut().enumerate().for_each(|(i, v)| *v = a[i / 64] * b[i % 64]);
    assert_found(&network.judged(), UP, Verdict::Dead, |f| {
        matches!(f, Finding::OneDirection { rank: 1, .. })
    });
    let mut network = Network::new();
    let values = network.get(UP);
    values.iter_mut().enumerate().for_each(|(i, v)| *v = 0.05 * *v + a[i / 64] * b[i % 64]);
    assert_found(
        &network.judged(),
        UP,
        Verdict::Dead,
        |f| matches!(f, Finding::OneDirection { effective, .. } if *effective < 1.25),
    );
}

#[test]
fn bytes_of_bf16_that_are_called_f16_are_misread() {
    let mut network = Network::new();
    // The bits of a bf16 read as f16 in f32: sign, then exponents of 0.5 to 2.
    let misread = |x: f32| {
        let bits = (x.to_bits() >> 16) as u16;
        let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
        (1.0 + mantissa / 1024.0) * 2f32.powi(exponent - 15) * if bits >> 15 == 1 { -1.0 } else { 1.0 }
    };
    network.get(UP).iter_mut().for_each(|v| *v = misread(*v));
    assert_found(&network.judged(), UP, Verdict::Corrupt, |f| matches!(f, Finding::Misread { .. }));
}

#[test]
fn a_matrix_unlike_the_same_one_in_other_layers_is_told() {
    for (factor, verdict) in [(1000.0, Verdict::Corrupt), (1e-3, Verdict::Dying)] {
        let mut network = Network::new();
        network.get(UP).iter_mut().for_each(|v| *v *= factor);
        assert_found(&network.judged(), UP, verdict, |f| matches!(f, Finding::UnlikeSiblings { .. }));
    }
}

#[test]
fn a_matrix_far_too_large_is_corrupt_though_its_siblings_are_too() {
    let mut network = Network::new();
    for layer in 0..6 {
        network.get(&format!("model.layers.{layer}.mlp.up_proj.weight")).iter_mut().for_each(|v| *v *= 1e6);
    }
    assert_found(&network.judged(), UP, Verdict::Corrupt, |f| matches!(f, Finding::LargeRelativeStd { .. }));
}

#[test]
fn a_layer_that_is_there_twice_is_told_of_the_second() {
    let mut network = Network::new();
    for part in ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"] {
        let first = network.get(&format!("model.layers.1.{part}.weight")).clone();
        *network.get(&format!("model.layers.2.{part}.weight")) = first;
    }
    let record = network.judged();
    let other = "model.layers.1.mlp.up_proj.weight".to_string();
    assert_found(&record, UP, Verdict::Dead, |f| *f == Finding::EqualLayers { other: other.clone() });
    assert_eq!(found(&record, &other), (Some(Verdict::Healthy), vec![]));
}

#[test]
fn gains_at_zero_are_dead_unless_all_begin_there() {
    let gain = "model.layers.2.input_layernorm.weight";
    let mut network = Network::new();
    network.get(gain).fill(0.0);
    assert_found(&network.judged(), gain, Verdict::Dead, |f| *f == Finding::GainsAtZero);
    let mut gemma = Network::new();
    for layer in 0..6 {
        gemma.get(&format!("model.layers.{layer}.input_layernorm.weight")).fill(0.0);
    }
    assert_healthy(&gemma);
}

#[test]
fn last_projections_at_zero_are_untrained_in_a_fresh_network_and_dead_in_a_trained_one() {
    let zero = |network: &mut Network, part: &str| {
        for layer in 0..6 {
            network.get(&format!("model.layers.{layer}.{part}.weight")).fill(0.0);
        }
    };
    let mut trained = Network::new();
    zero(&mut trained, "mlp.down_proj");
    assert_eq!(trained.judged().verdict, Some(Verdict::Dead));
    let mut fresh = Network::new();
    zero(&mut fresh, "mlp.down_proj");
    for layer in 0..6 {
        fresh.get(&format!("model.layers.{layer}.input_layernorm.weight")).fill(1.0);
    }
    let record = fresh.judged();
    assert_eq!(record.verdict, Some(Verdict::Untrained), "{:?}", record.reasons);
    // Nothing is left of the branch.
    zero(&mut fresh, "mlp.up_proj");
    assert_eq!(fresh.judged().verdict, Some(Verdict::Dead));
}

#[test]
fn adapters_and_modulations_begin_at_zero() {
    let mut network = Network(Vec::new());
    for layer in 0..3 {
        let at = |name: &str| format!("base_model.model.layers.{layer}.q_proj.{name}.weight");
        network.add(&at("lora_A"), &[8, 64], random(512, 0.1, layer + 1));
        network.add(&at("lora_B"), &[64, 8], vec![0.0; 512]);
    }
    network.add("blocks.0.adaLN_modulation.1.weight", &[384, 64], vec![0.0; 384 * 64]);
    network.add("decoder.bbox_embed.0.layers.2.weight", &[4, 64], vec![0.0; 256]);
    network.add("decoder.layers.0.encoder_attn.sampling_offsets.weight", &[64, 64], vec![0.0; 4096]);
    network.add("quantizer.layers.0.codebook.embed", &[64, 32], vec![0.0; 2048]);
    let record = network.judged();
    assert_eq!(record.verdict, Some(Verdict::Untrained), "{:?}", record.reasons);
    network.get("base_model.model.layers.1.q_proj.lora_A.weight").fill(0.0);
    assert_eq!(network.judged().verdict, Some(Verdict::Dead));
}

#[test]
fn a_missing_layer_and_a_missing_weight_are_told_by_name() {
    let missing = |network: Network| match &network.judged().findings[..] {
        [Finding::Missing { names, .. }] => names.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(Network::new().without("layers.3.")), ["model.layers.3"]);
    assert_eq!(missing(Network::new().without("layers.2.mlp.up")), ["model.layers.2.mlp.up_proj.weight"]);
    // Of three layers, the middle one.
    let three = |part: &str| {
        let mut three = Network::new();
        three
            .0
            .retain(|(name, ..)| !["layers.3.", "layers.4.", "layers.5."].iter().any(|l| name.contains(l)));
        three.without(part)
    };
    assert_eq!(missing(three("layers.1.mlp.up")), ["model.layers.1.mlp.up_proj.weight"]);
    assert_healthy(&three("layers.0.mlp.up"));
    // Every second number, where activations have none.
    let mut sequential = Network::new();
    for (name, ..) in &mut sequential.0 {
        for layer in (0..6).rev() {
            *name = name.replace(&format!("layers.{layer}."), &format!("layers.{}.", 2 * layer));
        }
    }
    assert_healthy(&sequential);
    // The first layer may do without a norm, and any block without what changes a shape, but not without half a module.
    assert_healthy(&Network::new().without("layers.0.input_layernorm"));
    let mut shortcuts = Network::new();
    for layer in 0..6 {
        shortcuts.add(
            &format!("model.layers.{layer}.shortcut.weight"),
            &[64, 64],
            random(4096, 0.1, 70 + layer),
        );
    }
    assert_healthy(&shortcuts.without("layers.3.shortcut"));
    let mut biased = Network::new();
    for layer in 1..6 {
        biased.add(&format!("model.layers.{layer}.mlp.up_proj.bias"), &[64], random(64, 0.1, 80 + layer));
    }
    assert_eq!(missing(biased), ["model.layers.0.mlp.up_proj.bias"]);
    // A layer of another kind.
    let mut other = Network::new().without("layers.2.mlp.up");
    other.add("model.layers.2.mixer.weight", &[64, 64], random(4096, 0.1, 99));
    assert_healthy(&other);
}

#[test]
fn variances_below_zero_and_beyond_reason_are_corrupt() {
    for (value, verdict) in [(-1.0, Some(Verdict::Corrupt)), (1e20, Some(Verdict::Corrupt)), (1e4, None)] {
        let mut network = Network::new();
        let mut variances = vec![1.0; 64];
        variances[3] = value;
        network.add("stem.bn1.running_var", &[64], variances);
        assert_eq!(found(&network.judged(), "stem.bn1.running_var").0, verdict, "{value}");
    }
}

#[test]
fn a_weight_without_elements_is_corrupt_and_a_buffer_without_is_not() {
    let mut network = Network::new();
    network.add("model.extra", &[0], vec![]);
    assert_healthy(&network);
    // e3nn's modules without weights have a mask of their outputs instead.
    network.add("model.convolution.weight", &[0], vec![]);
    network.add("model.convolution.output_mask", &[16], vec![1.0; 16]);
    assert_healthy(&network);
    network.add("model.layers.2.mlp.gate_proj.weight", &[0], vec![]);
    let record = network.judged();
    assert_found(&record, "model.layers.2.mlp.gate_proj.weight", Verdict::Corrupt, |f| *f == Finding::Empty);
}

#[test]
fn infinity_is_meant_in_masks_and_in_what_a_trainer_keeps() {
    let mut network = Network::new();
    let mask = (0..256).map(|i| if i % 16 > i / 16 { f32::NEG_INFINITY } else { 0.0 }).collect();
    network.add("model.attn_mask", &[16, 16], mask);
    network.add("callbacks.EarlyStopping.best_score", &[1], vec![f32::INFINITY]);
    network.add("layer.activation_post_process.min_val", &[1], vec![f32::INFINITY]);
    assert_healthy(&network);
    network.get(UP)[0] = f32::INFINITY;
    assert_eq!(network.judged().verdict, Some(Verdict::Corrupt));
}

/// A best score or lowest loss that a trainer keeps beside the state dict begins at infinity.
#[test]
fn single_numbers_beside_a_state_dict_are_a_trainers() {
    let mut network = Network::new();
    network.0.iter_mut().for_each(|(name, ..)| *name = format!("state_dict.{name}"));
    network.add("lowest_val", &[], vec![f32::INFINITY]);
    network.add("early_stopping.best_score", &[1], vec![f32::NAN]);
    assert_healthy(&network);
    network.add("state_dict.logit_scale", &[], vec![f32::NAN]);
    assert_eq!(network.judged().verdict, Some(Verdict::Corrupt));
}

#[test]
fn a_table_or_a_convolution_beyond_reason_is_corrupt_too() {
    let mut network = Network::new();
    network.get("model.embed_tokens.weight").iter_mut().for_each(|v| *v *= 1e7);
    let name = "model.embed_tokens.weight";
    assert_found(&network.judged(), name, Verdict::Corrupt, |f| {
        matches!(f, Finding::LargeRelativeStd { .. })
    });
    let mut normalized = Network::new();
    normalized.add("conv1.weight", &[64, 64], random(4096, 100.0, 3));
    normalized.add("bn1.running_var", &[64], vec![1.5; 64]);
    assert_healthy(&normalized);
}

/// MXFP4's scales are bytes, of which 255 is NaN; other bytes may be 255.
#[test]
fn a_scale_of_255_is_nan_where_codes_stand_beside_it() {
    let judged = |codes: &str, scales: &str, largest: u8, stored: bool| {
        let header = serde_json::json!({
            codes: {"dtype": "U8", "shape": [2, 4, 2, 16], "data_offsets": [0, 256]},
            scales: {"dtype": "U8", "shape": [2, 4, 2], "data_offsets": [256, 272]},
        });
        let header = serde_json::to_vec(&header).unwrap();
        let scales_of = [&[120u8; 15][..], &[largest]].concat();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &[0x21; 256], &scales_of].concat();
        let mut options = OpenOptions::default();
        options.stored = stored;
        let checkpoint = open_bytes_with("made.safetensors", bytes, &options).unwrap();
        let mut record = describe(&checkpoint, Options::default(), &|_| ());
        judge(&mut record, &Thresholds::default());
        record
    };
    let (codes, scales) = ("mlp.experts.gate_up_proj_blocks", "mlp.experts.gate_up_proj_scales");
    assert_found(&judged(codes, scales, 255, true), scales, Verdict::Corrupt, |f| *f == Finding::NanScale);
    assert_eq!(found(&judged(codes, scales, 254, true), scales), (None, vec![]));
    for stored in [true, false] {
        let absmax = judged("x.weight", "x.weight.absmax", 255, stored);
        assert_eq!(found(&absmax, "x.weight.absmax"), (None, vec![]));
    }
    // As the weight that they make up.
    let weight = "mlp.experts.gate_up_proj";
    assert_found(&judged(codes, scales, 255, false), weight, Verdict::Corrupt, |f| *f == Finding::NanScale);
    assert!(!found(&judged(codes, scales, 254, false), weight).1.contains(&Finding::NanScale));
}

#[test]
fn roles_are_told_from_names_shapes_and_siblings() {
    let mut network = Network::new();
    let mut add = |name: &str, shape: &[usize]| network.add(name, shape, vec![0.5; shape.iter().product()]);
    let wanted = [
        ("model.layers.0.mlp.gate.weight", vec![4, 64], Role::Router),
        ("model.layers.0.mlp.experts.3.up_proj.weight", vec![64, 64], Role::Matrix),
        ("model.layers.0.mlp.experts.gate_up_proj", vec![4, 64, 64], Role::Matrix),
        ("features.0.weight", vec![8, 3, 3, 3], Role::Convolution),
        ("features.1.weight", vec![8], Role::NormGain),
        ("features.1.running_mean", vec![8], Role::RunningMean),
        ("wpe.weight", vec![16, 64], Role::Positional),
        ("h.0.attn.bias", vec![1, 1, 16, 16], Role::Mask),
        ("h.0.attn.c_attn.bias", vec![192], Role::Bias),
        ("lora_te1.down.lora_down.weight", vec![4, 64], Role::LoraA),
        ("x.q_proj.lora_B.default.weight", vec![64, 4], Role::LoraB),
        ("blocks.0.ls1.gamma", vec![64], Role::LayerScale),
        ("backbone.layers.0.mixer.A_log", vec![64, 16], Role::LayerScale),
        ("rnn.weight_hh_l0", vec![64, 16], Role::Matrix),
        ("fc.parametrizations.weight.original1", vec![64, 16], Role::Matrix),
        ("fc.parametrizations.weight.original0", vec![64, 1], Role::LayerScale),
        ("rotary_emb.inv_freq", vec![32], Role::Cache),
        ("x.weight_scale_inv", vec![2, 2], Role::Scale),
        ("quantize.embedding.weight", vec![32, 8], Role::Embedding),
        ("latents", vec![32, 8], Role::Unknown),
    ];
    wanted.iter().for_each(|(name, shape, _)| add(name, shape));
    let record = network.judged();
    for (name, _, role) in wanted {
        assert_eq!(record.tensors.iter().find(|t| t.name == name).unwrap().role, role, "{name}");
    }
}

#[test]
fn what_pruning_leaves_is_not_misread() {
    let mut network = Network::new();
    let values = network.get(UP);
    let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    let line = sizes[sizes.len() * 9 / 10];
    values.iter_mut().filter(|v| v.abs() < line).for_each(|v| *v = 0.0);
    assert_eq!(
        network.judged().tensors.iter().find(|t| t.name == UP).unwrap().verdict,
        Some(Verdict::Healthy)
    );
}
