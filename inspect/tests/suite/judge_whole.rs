//! Rules that hold tensors, experts and layers against each other, and all of it against a configuration.

use ckpt_inspect::{CheckpointRecord, Finding, Thresholds, Verdict, judge};
use serde_json::json;

use super::judge::{Network, UP, assert_found, assert_healthy, found, random};

pub(crate) fn with_config(network: &Network, config: serde_json::Value) -> CheckpointRecord {
    let mut record = network.judged();
    record.model.config = config.as_object().unwrap().clone();
    judge(&mut record, &Thresholds::default());
    record
}

fn promised(record: &CheckpointRecord) -> Vec<(&str, u64, u64)> {
    let of = |f| match f {
        &Finding::Promised { ref key, promised, found } => Some((key.as_str(), promised, found)),
        _ => None,
    };
    record.findings.iter().filter_map(of).collect()
}

#[test]
fn the_width_is_that_of_the_tables_and_norms() {
    let network = Network::new();
    for (config, wanted) in [
        (json!({"hidden_size": 64, "num_hidden_layers": 6, "vocab_size": 300}), vec![]),
        // A matrix is as high as that, or a multiple of it, but the network is not so wide.
        (json!({"hidden_size": 32}), vec![("hidden_size", 32, 64)]),
        (json!({"d_model": 300}), vec![("d_model", 300, 64)]),
        (json!({"num_hidden_layers": 8}), vec![("num_hidden_layers", 8, 6)]),
        (json!({"num_hidden_layers": 4}), vec![("num_hidden_layers", 4, 6)]),
        (json!({"num_hidden_layers": 5, "num_nextn_predict_layers": 1}), vec![]),
        (json!({"vocab_size": 512}), vec![("vocab_size", 512, 300)]),
        // Padded, and two vocabularies in one table.
        (json!({"vocab_size": 290}), vec![]),
        (json!({"vocab_size": 100}), vec![]),
        (json!({"vocab_size": 40}), vec![("vocab_size", 40, 300)]),
    ] {
        assert_eq!(promised(&with_config(&network, config.clone())), wanted, "{config}");
    }
}

#[test]
fn the_keys_of_a_gguf_file_are_promises_too() {
    let keys = |layers: u64, width: u64| {
        let mut record = Network::new().judged();
        let keys = json!({"general.architecture": "llama", "llama.block_count": layers, "llama.embedding_length": width});
        record.metadata = keys.as_object().unwrap().clone();
        judge(&mut record, &Thresholds::default());
        record
    };
    assert_eq!(promised(&keys(6, 64)), []);
    assert_eq!(promised(&keys(9, 64)), [("block_count", 9, 6)]);
    assert_eq!(promised(&keys(6, 128)), [("embedding_length", 128, 64)]);
}

#[test]
fn what_every_layer_needs_is_missed_in_the_first_and_the_last_too() {
    let missing = |network: &Network| match &network.judged().findings[..] {
        [Finding::Missing { names, .. }] => names.clone(),
        [] => Vec::new(),
        other => panic!("{other:?}"),
    };
    let lacks = |part: &str| missing(&Network::new().without(part));
    assert_eq!(lacks("layers.0.self_attn.q_proj"), ["model.layers.0.self_attn.q_proj.weight"]);
    assert_eq!(lacks("layers.5.mlp.down_proj"), ["model.layers.5.mlp.down_proj.weight"]);
    assert_eq!(lacks("layers.0.input_layernorm"), [""; 0]);
    // Attention to another sequence that only some layers have.
    let mut network = Network::new();
    for layer in [0, 1, 2, 4, 5] {
        for (i, name) in ["key", "value"].into_iter().enumerate() {
            let name = format!("model.layers.{layer}.crossattention.{name}.weight");
            network.add(&name, &[64, 64], random(4096, 0.1, 200 + 2 * layer + i as u64));
        }
    }
    assert_eq!(missing(&network).len(), 2);
    assert_eq!(missing(&network.without("layers.4.crossattention")), [""; 0]);
}

#[test]
fn children_of_a_sequence_are_no_layers() {
    let mut network = Network::new();
    for child in [0, 2, 5] {
        let at = |name: &str| format!("{child}.{name}");
        network.add(&at("weight_orig"), &[64, 64], random(4096, 0.1, 30 + child));
        network.add(&at("weight_u"), &[64], random(64, 0.1, 40 + child));
        network.add(&at("weight_v"), &[64], random(64, 0.1, 50 + child));
        network.add(&at("bias"), &[64], random(64, 0.1, 60 + child));
    }
    // Blocks with pools and activations between them.
    for child in [0, 1, 3, 4, 7] {
        let at = |name: &str| format!("features.{child}.{name}");
        network.add(&at("conv.weight"), &[16, 16, 3, 3], random(2304, 0.1, 70 + child));
        for name in ["bn.weight", "bn.bias", "bn.running_mean"] {
            network.add(&at(name), &[16], random(16, 0.1, 90 + child));
        }
        network.add(&at("bn.running_var"), &[16], vec![1.5; 16]);
    }
    assert_healthy(&network);
}

#[test]
fn elements_are_compared_and_not_what_was_measured_of_them() {
    let other = "model.layers.1.mlp.up_proj.weight";
    let mut network = Network::new();
    // Sums of such numbers are exact, in whatever order they are taken.
    network.get(other).iter_mut().for_each(|v| *v = (*v * 1024.0).round() / 1024.0);
    let mut same = network.get(other).clone();
    *network.get(UP) = same.clone();
    assert_found(&network.judged(), UP, Verdict::Dead, |f| {
        *f == Finding::EqualLayers { other: other.into() }
    });
    same.swap(3, 900);
    *network.get(UP) = same;
    let record = assert_healthy(&network);
    let stats = |name: &str| record.tensors.iter().find(|t| t.name == name).unwrap().stats.as_ref().unwrap();
    assert_eq!(stats(UP).std, stats(other).std);
}

#[test]
fn a_merge_may_repeat_layers_if_its_configuration_says_so() {
    let mut network = Network::new();
    let same = network.get("model.layers.1.mlp.up_proj.weight").clone();
    *network.get(UP) = same;
    let mut record = network.judged();
    assert_eq!(record.verdict, Some(Verdict::Dead));
    record.model.repeats_layers = true;
    judge(&mut record, &Thresholds::default());
    assert_eq!(record.verdict, Some(Verdict::Healthy), "{:?}", record.reasons);
}

#[test]
fn experts_are_held_against_each_other_wherever_they_are() {
    let name = |expert: u64| format!("model.layers.2.mlp.experts.{expert}.up_proj.weight");
    let mut apart = Network::new();
    (0..8).for_each(|expert| apart.add(&name(expert), &[32, 64], random(2048, 0.1, 500 + expert)));
    let first = apart.get(&name(0)).clone();
    *apart.get(&name(5)) = first.clone();
    assert_eq!(found(&apart.judged(), &name(5)).0, Some(Verdict::Dead));
    // All alike, as upcycling a dense layer makes them.
    (1..8).for_each(|expert| *apart.get(&name(expert)) = first.clone());
    assert_eq!(apart.judged().verdict, Some(Verdict::Untrained));

    let fused = "model.layers.2.mlp.experts.gate_up_proj";
    let size = 64 * 32;
    let with = |change: &dyn Fn(&mut [f32])| {
        let mut network = Network::new();
        network.add(fused, &[8, 64, 32], random(8 * size, 0.1, 600));
        change(network.get(fused));
        found(&network.judged(), fused).0
    };
    assert_eq!(with(&|_| ()), Some(Verdict::Healthy));
    assert_eq!(with(&|v| v[3 * size..4 * size].fill(0.0)), Some(Verdict::Dead));
    assert_eq!(with(&|v| v[3 * size..4 * size].fill(0.02)), Some(Verdict::Dead));
    assert_eq!(with(&|v| v.copy_within(..size, 3 * size)), Some(Verdict::Dead));
    assert_eq!(with(&|v| v[..size].iter_mut().for_each(|x| *x *= 2e4)), Some(Verdict::Corrupt));
    let upcycled = |v: &mut [f32]| (1..8).for_each(|expert| v.copy_within(..size, expert * size));
    assert_eq!(with(&upcycled), Some(Verdict::Untrained));
}

#[test]
fn a_matrix_that_was_written_twice_has_equal_rows_however_high_it_is() {
    let mut network = Network::new();
    let half = random(2000 * 32, 0.1, 700);
    network.add("wide.proj.weight", &[4000, 32], [half.clone(), half].concat());
    assert_found(
        &network.judged(),
        "wide.proj.weight",
        Verdict::Dead,
        |f| matches!(f, Finding::EqualRows { share } if *share == 0.5),
    );
}

#[test]
fn rows_of_zeros_are_by_chance_in_a_sparse_matrix() {
    let mut network = Network::new();
    let values = network.get(UP);
    values.iter_mut().enumerate().filter(|(i, _)| (i * 7 + i / 64) % 5 < 3).for_each(|(_, v)| *v = 0.0);
    values[..64 * 9].fill(0.0);
    assert_healthy(&network);
}

#[test]
fn experts_of_one_layer_that_are_all_alike_among_others_that_are_not_are_dead() {
    let name = |layer: u64, expert: u64| format!("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight");
    let fused = |layer: u64| format!("model.layers.{layer}.mlp.experts.gate_up_proj");
    let mut network = Network::new();
    let size = 32 * 64;
    for layer in 0..4 {
        let seed = |expert: u64| 500 + 10 * layer + expert;
        (0..8).for_each(|e| network.add(&name(layer, e), &[32, 64], random(size, 0.1, seed(e))));
        network.add(&fused(layer), &[8, 64, 32], random(8 * size, 0.1, 900 + layer));
    }
    assert_healthy(&network);
    let upcycle = |network: &mut Network, layer: u64| {
        let first = network.get(&name(layer, 0)).clone();
        (1..8).for_each(|expert| *network.get(&name(layer, expert)) = first.clone());
        let experts = network.get(&fused(layer));
        (1..8).for_each(|expert| experts.copy_within(..size, expert * size));
    };
    upcycle(&mut network, 2);
    assert_eq!(found(&network.judged(), &name(2, 5)).0, Some(Verdict::Dead));
    assert_eq!(found(&network.judged(), &fused(2)).0, Some(Verdict::Dead));
    [0, 1, 3].into_iter().for_each(|layer| upcycle(&mut network, layer));
    assert_eq!(network.judged().verdict, Some(Verdict::Untrained));
}

#[test]
fn whole_rows_of_a_pruned_matrix_may_be_zero() {
    let pruned = |share: usize| {
        let mut network = Network::new();
        let values = network.get(UP);
        values.iter_mut().enumerate().filter(|(i, _)| (i * 7919) % 100 < share).for_each(|(_, v)| *v = 0.0);
        // Rows are of different sizes, and the smallest are pruned first.
        values[64 * 20..64 * 56].fill(0.0);
        found(&network.judged(), UP).0
    };
    assert_eq!(pruned(80), Some(Verdict::Healthy));
    assert_eq!(pruned(20), Some(Verdict::Dead));
}

#[test]
fn what_every_model_of_a_class_has_before_its_layers_is_missed() {
    let of = |class: &str, network: &Network| {
        let mut record = network.judged();
        record.model.architecture = class.into();
        record.model.config =
            json!({"architectures": [class], "hidden_size": 64}).as_object().unwrap().clone();
        judge(&mut record, &Thresholds::default());
        let missing = |f: &Finding| matches!(f, Finding::Missing { .. }).then(|| f.to_string());
        record.findings.iter().find_map(missing)
    };
    let distances = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let mut network = Network::new();
    let missing = format!("missing: {distances}");
    assert_eq!(of("T5EncoderModel", &network), None);
    assert_eq!(of("T5ForTokenClassification", &network).as_deref(), Some(missing.as_str()));
    assert_eq!(of("T5GemmaForSomething", &network), None);
    network.add(distances, &[32, 4], random(128, 0.1, 3));
    assert_eq!(of("T5ForTokenClassification", &network), None);
    for half in ["encoder", "decoder"] {
        network.add(&format!("{half}.final_layer_norm.weight"), &[64], random(64, 0.1, 3));
    }
    let decoder = distances.replacen("encoder", "decoder", 1);
    let missing = format!("missing: {decoder}");
    assert_eq!(of("T5ForConditionalGeneration", &network).as_deref(), Some(missing.as_str()));
    network.add(&decoder, &[32, 4], random(128, 0.1, 4));
    assert_eq!(of("T5ForConditionalGeneration", &network), None);
    network.add("bert.embeddings.word_embeddings.weight", &[512, 64], random(512 * 64, 0.1, 5));
    let missing = "missing: position_embeddings.weight";
    assert_eq!(of("BertForMaskedLM", &network).as_deref(), Some(missing));
    assert_eq!(of("DebertaForMaskedLM", &network), None);
    let patches = of("ViTForImageClassification", &network).unwrap();
    assert!(
        patches.contains("patch_embeddings.projection.weight and 0 more") || patches.contains("cls_token"),
        "{patches}"
    );
    assert_eq!(of("ViTHybridModel", &network), None);
}

#[test]
fn the_width_within_mlps_is_promised_too() {
    let mut network = Network::new();
    for layer in 0..6u64 {
        network.add(
            &format!("model.layers.{layer}.mlp.gate_up.weight"),
            &[192, 64],
            random(12288, 0.1, layer + 40),
        );
    }
    for (config, wanted) in [
        (json!({"hidden_size": 64, "intermediate_size": 96}), vec![]),
        (json!({"hidden_size": 64, "d_ff": 192}), vec![]),
        // Both halves of it.
        (json!({"hidden_size": 64, "intermediate_size": 384}), vec![]),
        (json!({"hidden_size": 64, "intermediate_size": 160}), vec![("intermediate_size", 160, 192)]),
        (json!({"hidden_size": 64, "intermediate_size": 160, "num_experts": 8}), vec![]),
        (json!({"hidden_size": 64, "intermediate_size": 160, "mlp_ratio": 3}), vec![]),
    ] {
        assert_eq!(promised(&with_config(&network, config.clone())), wanted, "{config}");
    }
}
