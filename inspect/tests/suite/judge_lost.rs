//! Parts that are lost, or of another size, where names, roles and what shows training once hid them.

use ckpt_inspect::{CheckpointRecord, Finding, Role, Thresholds, Verdict, judge};
use serde_json::json;

use super::judge::{Network, UP, assert_found, assert_healthy, found, random};
use super::judge_first_steps::drawn;
use super::judge_whole::with_config;

const EMBEDDING: &str = "model.embed_tokens.weight";

fn role(record: &CheckpointRecord, name: &str) -> Role {
    record.tensors.iter().find(|t| t.name == name).unwrap().role
}

fn missing(record: &CheckpointRecord) -> Vec<String> {
    let names = |f: &Finding| match f {
        Finding::Missing { names, .. } => Some(names.clone()),
        _ => None,
    };
    record.findings.iter().filter_map(names).flatten().collect()
}

/// As f16 whose bits are those of bf16.
fn misread(values: &mut [f32]) {
    for v in values {
        *v = half::f16::from_bits(half::bf16::from_f32(*v).to_bits()).to_f32();
    }
}

#[test]
fn matrices_called_by_a_capital_letter_are_judged() {
    let mut network = Network(Vec::new());
    network.add("embed.W_E", &[300, 64], random(300 * 64, 0.1, 1));
    network.add("pos_embed.W_pos", &[32, 64], random(32 * 64, 0.1, 2));
    for layer in 0..4u64 {
        let at = |name: &str| format!("blocks.{layer}.{name}");
        for (i, letter) in ["Q", "K", "V"].into_iter().enumerate() {
            network.add(
                &at(&format!("attn.W_{letter}")),
                &[4, 64, 16],
                random(4096, 0.1, 10 * layer + i as u64 + 3),
            );
        }
        network.add(&at("attn.W_O"), &[4, 16, 64], random(4096, 0.1, 10 * layer + 50));
        network.add(&at("mlp.W_in"), &[64, 256], random(64 * 256, 0.1, 10 * layer + 51));
        network.add(&at("mlp.W_out"), &[256, 64], random(64 * 256, 0.1, 10 * layer + 52));
        network.add(&at("ln1.w"), &[64], random(64, 0.05, layer + 900).iter().map(|x| 1.0 + x).collect());
    }
    network.add("unembed.W_U", &[64, 300], random(300 * 64, 0.1, 7));
    let record = assert_healthy(&network);
    assert!(record.coverage.is_whole(), "{}", record.coverage);
    assert_eq!(role(&record, "unembed.W_U"), Role::Head);
    for name in ["embed.W_E", "unembed.W_U", "blocks.2.attn.W_Q", "blocks.1.mlp.W_in"] {
        let mut lost = Network(network.0.clone());
        lost.get(name).fill(0.0);
        assert_eq!(found(&lost.judged(), name).0, Some(Verdict::Dead), "{name}");
    }
    // The low-rank matrices of RWKV are written small, and begin at zero.
    let mut other = Network::new();
    other.add("blocks.0.att.w1", &[64, 16], vec![0.0; 1024]);
    assert_eq!(role(&assert_healthy(&other), "blocks.0.att.w1"), Role::Unknown);
}

#[test]
fn a_table_of_few_tokens_is_missed_whatever_else_is_that_long() {
    let mut network = Network::new().without("embed_tokens").without("lm_head");
    network.add("model.norm.weight", &[64], random(64, 0.05, 9).iter().map(|x| 1.0 + x).collect());
    let of = |class: &str, tokens: u64, network: &Network| {
        let config = json!({"architectures": [class], "model_type": "some", "vocab_size": tokens});
        let mut record = with_config(network, config);
        record.model.architecture = class.into();
        judge(&mut record, &Thresholds::default());
        missing(&record)
    };
    for class in ["SomeForCausalLM", "SomeForMaskedLM", "SomeForConditionalGeneration", "SomeMTModel"] {
        for tokens in [33, 300] {
            assert_eq!(of(class, tokens, &network), [format!("a table of its {tokens} tokens")], "{class}");
        }
    }
    assert!(of("SomeForSequenceClassification", 300, &network).is_empty());
    network.add("model.table.weight", &[300, 64], random(300 * 64, 0.1, 1));
    assert!(of("SomeForMaskedLM", 300, &network).is_empty());
}

#[test]
fn the_norm_behind_the_layers_of_a_known_class_is_missed() {
    let mut network = Network::new();
    network.add("backbone.embeddings.weight", &[300, 64], random(300 * 64, 0.1, 1));
    let of = |class: &str, config: serde_json::Value, network: &Network| {
        let mut record = with_config(network, config);
        record.model.architecture = class.into();
        judge(&mut record, &Thresholds::default());
        missing(&record)
    };
    assert!(of("MambaForCausalLM", json!({"a": 1}), &network).contains(&"norm_f.weight".into()));
    network.add("backbone.norm_f.weight", &[64], random(64, 0.05, 9).iter().map(|x| 1.0 + x).collect());
    assert!(of("MambaForCausalLM", json!({"a": 1}), &network).is_empty());
    let before = |before: bool| json!({"do_layer_norm_before": before});
    let norm = "decoder.final_layer_norm.weight".to_string();
    assert!(of("OPTForCausalLM", before(true), &network).contains(&norm));
    assert!(!of("OPTForCausalLM", before(false), &network).contains(&norm));
}

#[test]
fn a_lost_tail_does_not_show_that_nothing_was_trained() {
    let layers = |alive: usize| {
        let mut network = Network(Vec::new());
        network.add("item_embedding.weight", &[600, 32], random(600 * 32, 0.3, 1));
        for (at, place) in [0, 2, 4].into_iter().enumerate() {
            let scale = if at < alive { 0.2 } else { 0.0 };
            network.add(&format!("mlp.{place}.weight"), &[32, 32], random(1024, scale, at as u64 + 2));
            network.add(&format!("mlp.{place}.bias"), &[32], random(32, scale, at as u64 + 9));
        }
        network
    };
    assert_healthy(&layers(3));
    for alive in [0, 1] {
        assert_eq!(layers(alive).judged().verdict, Some(Verdict::Dead), "{alive}");
    }
}

#[test]
fn factors_of_an_adapter_are_held_to_what_no_training_leaves() {
    let name = |layer: u64, factor: &str| {
        format!("base_model.model.model.layers.{layer}.self_attn.v_proj.lora_{factor}.weight")
    };
    let adapter = || {
        let mut network = Network(Vec::new());
        for layer in 0..4 {
            network.add(&name(layer, "A"), &[16, 256], random(4096, 0.04, layer + 1));
            network.add(&name(layer, "B"), &[256, 16], random(4096, 0.005, layer + 20));
        }
        network
    };
    assert_healthy(&adapter());
    let check = |factor: &str, change: &dyn Fn(&mut Vec<f32>), is: &dyn Fn(&Finding) -> bool| {
        let mut network = adapter();
        change(network.get(&name(2, factor)));
        let (verdict, findings) = found(&network.judged(), &name(2, factor));
        assert!(verdict >= Some(Verdict::Dead) && findings.iter().any(is), "{verdict:?} {findings:?}");
    };
    for factor in ["A", "B"] {
        check(factor, &|w| misread(w), &|f| matches!(f, Finding::Misread { .. }));
        check(factor, &|w| w[2048..].fill(0.0), &|f| matches!(f, Finding::ZeroHole { .. }));
    }
    let columns = |w: &mut Vec<f32>| w.chunks_mut(256).for_each(|row| row[128..].fill(0.0));
    check("A", &columns, &|f| matches!(f, Finding::ZeroRows { .. }));
    check("A", &|w| *w = w[..256].repeat(16), &|f| matches!(f, Finding::EqualRows { .. }));
    // Ranks that are not used are zero in both.
    let mut padded = adapter();
    padded.get(&name(2, "A"))[2048..].fill(0.0);
    padded.get(&name(2, "B")).chunks_mut(16).for_each(|row| row[8..].fill(0.0));
    assert_eq!(found(&padded.judged(), &name(2, "A")).0, Some(Verdict::Healthy));
}

#[test]
fn tables_of_places_that_begin_at_random_are_dead_at_zero_once_trained() {
    for (name, verdict) in [
        ("transformer.wpe.weight", Verdict::Dead),
        ("embeddings.position_embeddings.weight", Verdict::Dead),
        ("pos_embed", Verdict::Untrained),
    ] {
        let mut network = Network::new();
        network.add(name, &[64, 64], vec![0.0; 4096]);
        assert_eq!(found(&network.judged(), name).0, Some(verdict), "{name}");
    }
}

#[test]
fn a_codebook_at_zero_among_others_is_dead_unless_it_was_not_filled_yet() {
    let at = |layer: u64, name: &str| format!("vq.layers.{layer}._codebook.{name}");
    let mut network = Network::new();
    for layer in 0..4 {
        network.add(&at(layer, "embed"), &[1, 128, 32], random(4096, 0.5, layer + 1));
        network.add(&at(layer, "initted"), &[1], vec![1.0]);
    }
    let record = assert_healthy(&network);
    assert_eq!(role(&record, &at(2, "embed")), Role::Codebook);
    network.get(&at(2, "embed")).fill(0.0);
    assert_eq!(found(&network.judged(), &at(2, "embed")).0, Some(Verdict::Dead));
    network.get(&at(2, "initted")).fill(0.0);
    assert_eq!(found(&network.judged(), &at(2, "embed")).0, Some(Verdict::Untrained));
}

#[test]
fn a_matrix_a_thousand_times_too_large_within_others_is_corrupt_without_norms_too() {
    let network = || {
        let mut network = Network(Vec::new());
        // Of other names, so that they are no siblings.
        for (layer, name) in (0u64..).zip(["first", "second", "third", "fourth"]) {
            network.add(&format!("{name}.weight"), &[64, 64], random(4096, 0.1, layer + 1));
            network.add(&format!("{name}.bias"), &[64], random(64, 0.1, layer + 9));
        }
        network
    };
    assert_healthy(&network());
    for (name, verdict) in [
        ("second.weight", Verdict::Corrupt),
        ("third.weight", Verdict::Corrupt),
        ("first.weight", Verdict::Healthy),
    ] {
        let mut large = network();
        large.get(name).iter_mut().for_each(|v| *v *= 1000.0);
        assert_eq!(found(&large.judged(), name).0, Some(verdict), "{name}");
    }
    let mut normalized = network();
    normalized.add("bn.running_var", &[64], vec![1.0; 64]);
    normalized.get("second.weight").iter_mut().for_each(|v| *v *= 1000.0);
    assert_eq!(normalized.judged().verdict, Some(Verdict::Healthy));
}

#[test]
fn half_of_the_columns_of_a_table_are_no_padding() {
    for name in [EMBEDDING, "lm_head.weight"] {
        let mut network = Network::new();
        network.get(name).chunks_mut(64).for_each(|row| row[32..].fill(0.0));
        assert_found(&network.judged(), name, Verdict::Dead, |f| matches!(f, Finding::ZeroRows { .. }));
    }
    let mut padded = Network::new();
    padded.get(EMBEDDING)[64 * 150..].fill(0.0);
    assert_healthy(&padded);
}

#[test]
fn tables_of_bf16_that_are_called_f16_are_told_also_where_some_values_are_beyond_two() {
    for (name, scale) in [(EMBEDDING, 0.02), (EMBEDDING, 1.0), (UP, 1.0)] {
        let mut network = Network::new();
        network.get(name).iter_mut().for_each(|v| *v *= scale / 0.02);
        if name == UP {
            *network.get(name) = random(4096, 1.0, 5);
        }
        misread(network.get(name));
        assert_found(&network.judged(), name, Verdict::Corrupt, |f| matches!(f, Finding::Misread { .. }));
    }
    let mut large = Network::new();
    *large.get(EMBEDDING) = random(300 * 64, 1.0, 5);
    assert_healthy(&large);
}

#[test]
fn a_last_layer_of_one_value_with_a_bias_of_its_size_is_dead() {
    let with = |value: f32, bias: f32| {
        let mut network = Network::new();
        network.add("classifier.weight", &[200, 64], vec![value; 200 * 64]);
        network.add("classifier.bias", &[200], random(200, bias, 77));
        found(&network.judged(), "classifier.weight").0
    };
    assert_eq!(with(0.0299, 0.02), Some(Verdict::Dead));
    assert_eq!(with(1e-3, 1e-3), Some(Verdict::Untrained));
}

#[test]
fn edges_of_bins_may_be_infinite_and_gradients_are_no_weights() {
    let mut network = Network::new();
    network.add("bin_edges", &[5], vec![f32::NEG_INFINITY, -1.0, 0.0, 1.0, f32::INFINITY]);
    for layer in 0..3 {
        network.add(&format!("gradients.layers.{layer}.mlp.up_proj.weight"), &[64, 64], vec![1e-7; 4096]);
    }
    assert_healthy(&network);
    network.add("bias", &[2], vec![f32::INFINITY, 0.0]);
    assert_eq!(network.judged().verdict, Some(Verdict::Corrupt));
}

#[test]
fn queries_may_begin_at_zero_within_a_fused_matrix() {
    let with = |gain: f32, zeros: usize| {
        let mut network = Network(Vec::new());
        for layer in 0..4u64 {
            let at = |name: &str| format!("h.{layer}.{name}.weight");
            network.add(&at("attn.c_attn"), &[192, 64], random(192 * 64, 0.1, layer + 1));
            network.get(&at("attn.c_attn"))[..zeros * 64].fill(0.0);
            network.add(&at("mlp.c_fc"), &[64, 64], random(4096, 0.1, layer + 20));
            let gains = random(64, gain, layer + 30).iter().map(|x| 1.0 + x).collect();
            network.add(&at("ln_1"), &[64], gains);
        }
        network.judged().verdict
    };
    assert_eq!(with(0.0, 64), Some(Verdict::Healthy));
    assert_eq!(with(0.05, 64), Some(Verdict::Dead));
    assert_eq!(with(0.0, 80), Some(Verdict::Dead));
}

/// A convolution of cellular automata begins at zero without a bias; modulation by features begins with ones and zeros.
#[test]
fn what_begins_at_zero_beside_layers_as_drawn_is_untrained_in_any_type() {
    let mut automaton = Network(Vec::new());
    automaton.add("0.weight", &[128, 48, 1, 1], drawn(128 * 48, 48, 1));
    automaton.add("0.bias", &[128], drawn(128, 48, 2));
    automaton.add("2.weight", &[16, 128, 1, 1], vec![0.0; 2048]);
    let f16 = automaton.judged_as("F16", |v| half::f16::from_f32(v).to_le_bytes());
    let bf16 = automaton.judged_as("BF16", |v| half::bf16::from_f32(v).to_le_bytes());
    for record in [automaton.judged(), f16, bf16] {
        assert_eq!(found(&record, "2.weight").0, Some(Verdict::Untrained));
    }
    let film = |fresh: bool| {
        let mut network = Network(Vec::new());
        let weights = |n: usize, fan_in: usize| {
            if fresh { drawn(n, fan_in, 3) } else { random(n, 0.1, 3) }
        };
        network.add("net.0.weight", &[64, 32], weights(2048, 32));
        network.add("net.0.bias", &[64], drawn(64, 32, 4));
        network.add("film.weight", &[128, 8], vec![0.0; 1024]);
        network.add("film.bias", &[128], (0..128).map(|i| if i < 64 { 1.0 } else { 0.0 }).collect());
        network.add("out.weight", &[5, 64], weights(320, 64));
        found(&network.judged(), "film.weight").0
    };
    assert_eq!(film(true), Some(Verdict::Untrained));
    assert_eq!(film(false), Some(Verdict::Dead));
}
