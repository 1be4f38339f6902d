//! Networks of few layers, in which no middle shows what is usual, and lists of blocks at any depth.

use ckpt_inspect::{Finding, Verdict};
use serde_json::json;

use crate::judge::{Network, assert_found, assert_healthy, found, random};
use crate::judge_whole::with_config;

/// A trained network of `layers` layers, as small as GPT-2 begins.
fn of_layers(layers: u64) -> Network {
    let mut network = Network(Vec::new());
    network.add("model.embed_tokens.weight", &[300, 64], random(300 * 64, 0.02, 1));
    for layer in 0..layers {
        add_layer(&mut network, &format!("model.layers.{layer}"), 1 + layer);
    }
    network.add("model.norm.weight", &[64], random(64, 0.05, 5).iter().map(|x| 1.0 + x).collect());
    network
}

fn add_layer(network: &mut Network, at: &str, seed: u64) {
    let mut seed = 100 * seed;
    for name in [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ] {
        seed += 1;
        let rows = if name == "mlp.up_proj" { 128 } else { 64 };
        let cols = if name == "mlp.down_proj" { 128 } else { 64 };
        network.add(&format!("{at}.{name}.weight"), &[rows, cols], random(rows * cols, 0.02, seed));
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        seed += 1;
        let gains = random(64, 0.05, seed).iter().map(|x| 1.0 + x).collect();
        network.add(&format!("{at}.{name}.weight"), &[64], gains);
    }
}

fn missing(network: &Network) -> Vec<String> {
    let record = network.judged();
    let names = |f: &Finding| match f {
        Finding::Missing { names, .. } => names.clone(),
        _ => Vec::new(),
    };
    record.findings.iter().flat_map(names).collect()
}

#[test]
fn a_matrix_a_thousand_times_as_large_shows_in_two_layers_too() {
    for layers in 1..4 {
        assert_healthy(&of_layers(layers));
        for part in ["self_attn.q_proj", "mlp.down_proj"] {
            let name = format!("model.layers.{}.{part}.weight", layers - 1);
            let mut network = of_layers(layers);
            network.get(&name).iter_mut().for_each(|x| *x *= 1000.0);
            let is = |f: &Finding| matches!(f, Finding::LargeRelativeStd { .. });
            assert_found(&network.judged(), &name, Verdict::Corrupt, is);
        }
        let mut all = of_layers(layers);
        all.0
            .iter_mut()
            .filter(|(n, ..)| n.contains("_proj"))
            .flat_map(|(.., v)| v)
            .for_each(|x| *x *= 1000.0);
        assert_eq!(all.judged().verdict, Some(Verdict::Corrupt));
    }
}

/// Without norms nothing says how large a matrix may be, but a network whose matrices are all hundreds of times as large as
/// they begin has exploded.
#[test]
fn a_network_without_norms_that_exploded_shows_in_all_of_its_matrices() {
    let of = |std: f32| {
        let mut network = Network(Vec::new());
        for layer in 0..4 {
            network.add(&format!("fc{layer}.weight"), &[64, 64], random(64 * 64, std, 3 + layer));
            network.add(&format!("fc{layer}.bias"), &[64], random(64, 6.0 * std, 13 + layer));
        }
        network
    };
    assert_healthy(&of(0.1));
    let is = |f: &Finding| matches!(f, Finding::LargeRelativeStd { .. });
    assert_found(&of(100.0).judged(), "fc1.weight", Verdict::Corrupt, is);
}

/// Fixup's last convolutions and its head begin at zero; its biases are single numbers, which training moves.
#[test]
fn numbers_for_biases_show_that_a_network_has_just_begun() {
    let of = |bias: f32| {
        let mut network = Network(Vec::new());
        network.add("conv1.weight", &[16, 3, 3, 3], random(432, 0.2, 1));
        for layer in 0..4 {
            let at = |part: &str| format!("layer.{layer}.{part}");
            network.add(&at("conv1.weight"), &[16, 16, 3, 3], random(2304, 0.05, 2 + layer));
            network.add(&at("conv2.weight"), &[16, 16, 3, 3], vec![0.0; 2304]);
            ["bias1a", "bias1b", "bias2a", "bias2b"]
                .iter()
                .for_each(|b| network.add(&at(b), &[1], vec![bias]));
            network.add(&at("scale"), &[1], vec![1.0]);
        }
        network.add("fc.weight", &[10, 16], vec![0.0; 160]);
        network.add("fc.bias", &[10], vec![0.0; 10]);
        network.judged().verdict
    };
    assert_eq!(of(0.0), Some(Verdict::Untrained));
    assert_eq!(of(0.01), Some(Verdict::Dead));
}

#[test]
fn a_layer_left_out_in_the_middle_is_missed_at_any_depth() {
    assert_eq!(missing(&of_layers(3).without("layers.1.")), ["model.layers.1"]);
    // Lists within stages, long and short, and numbers within words.
    for (before, count, gone) in [
        ("stages.2.blocks.", 6, 3),
        ("blocks.3.", 4, 2),
        ("s4.b", 7, 3),
        ("features.block1.denselayer", 9, 4),
    ] {
        let mut network = of_layers(1);
        (0..count).for_each(|n| add_layer(&mut network, &format!("{before}{n}"), 20 + n));
        assert_eq!(missing(&network), [""; 0], "{before}");
        let name = format!("{before}{gone}");
        assert_eq!(missing(&network.without(&format!("{name}."))), [name]);
    }
    // What lists of other things leave out: flips between two flows, activations between blocks, every second number.
    for (before, numbers) in [
        ("flow.flows.", &[0, 2][..]),
        ("net.", &[0, 1, 3]),
        ("layers.", &[0, 2, 4]),
        ("levels.1.parts.", &[0, 1, 4, 6]),
    ] {
        let mut network = of_layers(1);
        numbers.iter().for_each(|n| add_layer(&mut network, &format!("other.{before}{n}"), 20 + n));
        assert_eq!(missing(&network), [""; 0], "{before}");
    }
}

/// Blocks of mobile networks are sequences in a sequence, whose parts have numbers alone.
#[test]
fn a_block_left_out_of_a_sequence_of_sequences_is_missed() {
    let of = |numbers: &[u64]| {
        let mut network = Network(Vec::new());
        for &n in numbers {
            for (part, shape) in
                [("conv.0.0", &[96, 16, 1, 1][..]), ("conv.1.0", &[96, 1, 3, 3]), ("conv.2", &[16, 96, 1, 1])]
            {
                let at = format!("features.{n}.{part}");
                let size: usize = shape.iter().product();
                network.add(&format!("{at}.weight"), shape, random(size, 0.1, 31 * n + size as u64));
                let (inner, last) = at.rsplit_once('.').unwrap();
                let norm = format!("{inner}.{}", last.parse::<u64>().unwrap() + 1);
                let gains = random(shape[0], 0.05, 37 * n).iter().map(|x| 1.0 + x).collect();
                network.add(&format!("{norm}.weight"), &[shape[0]], gains);
                network.add(&format!("{norm}.bias"), &[shape[0]], random(shape[0], 0.05, 41 * n + 1));
            }
        }
        missing(&network)
    };
    let all: Vec<u64> = (1..14).collect();
    assert_eq!(of(&all), [""; 0]);
    let without = |gone: &[u64]| all.iter().copied().filter(|n| !gone.contains(n)).collect::<Vec<_>>();
    assert_eq!(of(&without(&[7])), ["features.7"]);
    // Pools stand between blocks, too.
    assert_eq!(of(&without(&[4, 9])), [""; 0]);
    assert_eq!(of(&[1, 2, 4, 5]), [""; 0]);
}

#[test]
fn how_deep_a_stage_is_is_its_own() {
    for depths in [&[2, 1, 2][..], &[3, 2, 3], &[2, 2, 1, 2]] {
        let mut network = of_layers(1);
        for (stage, depth) in depths.iter().enumerate() {
            let at = |n| format!("stages.{stage}.layers.{n}");
            (0..*depth).for_each(|n| add_layer(&mut network, &at(n), 30 + 10 * stage as u64 + n));
        }
        assert_eq!(missing(&network), [""; 0], "{depths:?}");
    }
}

#[test]
fn queries_keys_and_values_need_each_other_in_the_last_of_two_layers() {
    for part in ["q_proj", "k_proj", "v_proj"] {
        let name = format!("model.layers.1.self_attn.{part}.weight");
        assert_eq!(missing(&of_layers(2).without(&name)), [name]);
    }
}

#[test]
fn a_transposed_matrix_shows_between_two_layers() {
    let mut network = of_layers(3);
    let tensor = network.0.iter_mut().find(|(n, ..)| n == "model.layers.1.mlp.up_proj.weight").unwrap();
    tensor.1 = vec![64, 128];
    let record = network.judged();
    assert!(matches!(&record.findings[..], [Finding::UnlikeShape { .. }]), "{:?}", record.findings);
}

/// The matrix of a first, last or only layer that has rows for columns is told by the other layers, or by the biases of what
/// stands beside it.
#[test]
fn a_transposed_matrix_shows_at_the_ends() {
    let turn = |network: &mut Network, name: &str| {
        let tensor = network.0.iter_mut().find(|(n, ..)| n == name).unwrap();
        tensor.1.reverse();
    };
    let told = |network: &Network| -> Vec<String> {
        let name = |f: &Finding| match f {
            Finding::UnlikeShape { name, .. } => Some(name.clone()),
            _ => None,
        };
        network.judged().findings.iter().filter_map(name).collect()
    };
    for (layers, at) in [(2, 1), (3, 0), (3, 2), (6, 5)] {
        let name = format!("model.layers.{at}.mlp.up_proj.weight");
        let mut network = of_layers(layers);
        turn(&mut network, &name);
        assert_eq!(told(&network), [name]);
    }
    for layers in 1..3 {
        let mut network = of_layers(layers);
        for layer in 0..layers {
            for (part, rows) in [
                ("self_attn.q_proj", 64),
                ("mlp.up_proj", 128),
                ("mlp.down_proj", 64),
                ("mlp.gate_proj", 128),
            ] {
                let at = format!("model.layers.{layer}.{part}");
                if part == "mlp.gate_proj" {
                    network.add(&format!("{at}.weight"), &[128, 64], random(128 * 64, 0.02, 900 + layer));
                }
                network.add(&format!("{at}.bias"), &[rows], random(rows, 0.02, 800 + layer));
            }
        }
        assert_eq!(told(&network), [""; 0]);
        let name = "model.layers.0.mlp.up_proj.weight";
        turn(&mut network, name);
        assert_eq!(told(&network), [name]);
    }
}

/// A recurrent layer's matrix of 32 columns of which one direction is left, and one that is empty.
#[test]
fn small_matrices_of_recurrent_layers_are_judged_too() {
    let of = || {
        let mut network = Network(Vec::new());
        for layer in 0..3 {
            for (i, field) in ["weight_ih", "weight_hh"].iter().enumerate() {
                let values = random(96 * 32, 0.06, 7 * layer + i as u64);
                network.add(&format!("convs.{layer}.rnn.{field}"), &[96, 32], values);
            }
        }
        network
    };
    assert_healthy(&of());
    let name = "convs.1.rnn.weight_hh";
    let mut network = of();
    *network.get(name) = with_common(96, 32, 0.1, 1e-5);
    let is = |f: &Finding| matches!(f, Finding::OneDirection { .. });
    assert_found(&network.judged(), name, Verdict::Dead, is);
    let mut network = of();
    let tensor = network.0.iter_mut().find(|(n, ..)| n == name).unwrap();
    (tensor.1, tensor.2) = (vec![0], Vec::new());
    assert_found(&network.judged(), name, Verdict::Corrupt, |f| matches!(f, Finding::Empty));
}

/// Rows that have one direction in common, of this size, beside what each has of its own.
fn with_common(rows: usize, cols: usize, common: f32, own: f32) -> Vec<f32> {
    let direction = random(cols, common, 77);
    let values = random(rows * cols, own, 78);
    values.iter().enumerate().map(|(i, x)| x + direction[i % cols]).collect()
}

#[test]
fn tokens_that_never_occur_share_a_direction_and_a_collapsed_table_has_no_other() {
    for (name, cols) in
        [("model.embed_tokens.weight", 64), ("lm_head.weight", 64), ("model.embed_tokens.weight", 32)]
    {
        for (common, own, healthy) in [
            (0.08, 0.02, true),
            (0.3, 0.02, true),
            (0.02, 2e-6, false),
            (1.0, 5e-3, false),
            (0.05, 2e-4, false),
        ] {
            let mut network = of_layers(3);
            network.0.retain(|(n, ..)| n != name);
            network.add(name, &[2000, cols], with_common(2000, cols, common, own));
            let (verdict, findings) = found(&network.judged(), name);
            let wanted = if healthy { Verdict::Healthy } else { Verdict::Dead };
            assert_eq!(verdict, Some(wanted), "{name} {cols} {common} {own}: {findings:?}");
        }
    }
    // No row of a matrix waits for a token.
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut network = of_layers(3);
    *network.get(name) = with_common(128, 64, 0.3, 0.02);
    assert_found(&network.judged(), name, Verdict::Dead, |f| matches!(f, Finding::OneDirection { .. }));
}

#[test]
fn a_kernel_that_takes_a_mean_is_no_dead_matrix() {
    for (move_by, spread) in [(0.0, 0.0), (0.02, 1e-5), (-0.02, 1e-4)] {
        let mut network = of_layers(3);
        let own = random(11, spread, 9).iter().map(|x| 1.0 / 11.0 + move_by + x).collect();
        network.add("upsample.upsample_layers.1.weight", &[1, 1, 1, 11], own);
        assert_healthy(&network);
    }
    let mut network = of_layers(3);
    network.add("upsample.upsample_layers.1.weight", &[1, 1, 1, 11], vec![0.0; 11]);
    assert_eq!(network.judged().verdict, Some(Verdict::Dead));
}

#[test]
fn the_last_matrix_of_every_block_may_begin_at_zero_where_no_bias_has_moved() {
    // Drawn evenly between bounds of 1 / sqrt(fan_in).
    let drawn = |n: usize, fan_in: usize| -> Vec<f32> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        (0..n).map(|i| bound * ((i * 37 % n) as f32 / (n - 1) as f32 * 2.0 - 1.0)).collect()
    };
    let network = |moved: f32| {
        let mut network = Network(Vec::new());
        network.add("emb.lin_rbf.weight", &[64, 16], drawn(64 * 16, 16));
        network.add("emb.lin_rbf.bias", &[64], drawn(64, 16));
        for block in 0..3 {
            let at = format!("output_blocks.{block}");
            for n in 0..2 {
                network.add(&format!("{at}.lins.{n}.weight"), &[64, 64], random(64 * 64, 0.1, 7 * block + n));
                let bias = random(64, moved, 3 + n);
                network.add(&format!("{at}.lins.{n}.bias"), &[64], bias);
            }
            network.add(&format!("{at}.lin.weight"), &[8, 64], vec![0.0; 8 * 64]);
        }
        network.judged()
    };
    let fresh = network(0.0);
    assert_eq!(fresh.verdict, Some(Verdict::Untrained), "{:?}", fresh.reasons);
    assert_eq!(network(0.02).verdict, Some(Verdict::Dead));
}

#[test]
fn what_is_below_any_initialisation_is_dead_though_all_layers_are() {
    let mut network = of_layers(3);
    for (name, _, values) in &mut network.0 {
        match name.contains("norm") {
            true => values.fill(1.0),
            false => values.iter_mut().for_each(|x| *x *= 1e-6),
        }
    }
    assert_eq!(network.judged().verdict, Some(Verdict::Dead));
}

#[test]
fn experts_are_held_against_each_other_also_where_a_word_stands_before_their_number() {
    let mixture = || {
        let mut network = of_layers(3);
        for layer in 0..2 {
            for expert in 0..4 {
                for (part, shape) in [("wi", [128, 64]), ("wo", [64, 128])] {
                    let name = format!("model.layers.{layer}.mlp.experts.expert_{expert}.{part}.weight");
                    network.add(&name, &shape, random(128 * 64, 0.02, 50 + 10 * layer + expert));
                }
            }
        }
        network
    };
    assert_healthy(&mixture());
    let mut copied = mixture();
    let copy = copied.get("model.layers.0.mlp.experts.expert_0.wi.weight").clone();
    let name = "model.layers.0.mlp.experts.expert_1.wi.weight";
    *copied.get(name) = copy;
    assert_found(&copied.judged(), name, Verdict::Dead, |f| matches!(f, Finding::EqualLayers { .. }));
    // The last expert of one of two layers, if as many are promised.
    let record = with_config(&mixture().without("layers.1.mlp.experts.expert_3."), json!({"num_experts": 4}));
    let gone = "model.layers.1.mlp.experts.expert_3".to_string();
    let is_told = |f: &Finding| matches!(f, Finding::Missing { names, .. } if names.contains(&gone));
    assert!(record.findings.iter().any(is_told), "{:?}", record.findings);
}

#[test]
fn a_configuration_is_held_against_tables_and_halves() {
    let mut network = of_layers(3);
    // A norm within the layers as wide as twice the network.
    (0..3).for_each(|n| network.add(&format!("model.layers.{n}.mixer.norm.weight"), &[128], vec![1.0; 128]));
    let told = |config| with_config(&network, config).findings.len();
    assert_eq!(told(json!({"hidden_size": 64})), 0);
    assert_eq!(told(json!({"hidden_size": 128})), 1);
    // The table is a factor, where that is said.
    assert_eq!(told(json!({"hidden_size": 128, "embedding_size": 64})), 0);
    // What is said of the text holds for it.
    let of_text = json!({"hidden_size": 64, "vocab_size": 300, "num_hidden_layers": 3});
    assert_eq!(told(json!({"hidden_size": 2048, "vocab_size": 257_152, "text_config": of_text})), 0);
    assert_eq!(told(json!({"hidden_size": 64, "text_config": {"hidden_size": 2048}})), 1);
}
