//! What shows that a network was trained, so that a zero in it is none that it began with; and gains, sizes and shapes that
//! no training leaves.

use ckpt_inspect::{CheckpointRecord, Finding, Role, Thresholds, Verdict, judge};
use serde_json::json;

use super::judge::{Network, UP, assert_found, assert_healthy, found, random};

fn gain(layer: u64) -> String {
    format!("model.layers.{layer}.input_layernorm.weight")
}

/// With gains where they begin: frozen, or in a type that rounds small steps away.
fn with_gains_at_one() -> Network {
    let mut network = Network::new();
    (0..6).for_each(|layer| network.get(&gain(layer)).fill(1.0));
    network
}

/// The same with each branch's last matrix zero.
fn with_dead_branches() -> Network {
    let mut network = with_gains_at_one();
    for layer in 0..6 {
        network.get(&format!("model.layers.{layer}.mlp.down_proj.weight")).fill(0.0);
    }
    network
}

fn bf16(network: &Network) -> CheckpointRecord {
    network.judged_as("BF16", |v| half::bf16::from_f32(v).to_le_bytes())
}

fn verdict_at(mut record: CheckpointRecord, step: u64, source: &str) -> Option<Verdict> {
    (record.step, record.step_source) = (Some(step), Some(source.into()));
    judge(&mut record, &Thresholds::default());
    record.verdict
}

#[test]
fn a_step_says_more_than_gains_that_stayed() {
    let network = with_dead_branches();
    assert_eq!(network.judged().verdict, Some(Verdict::Untrained));
    for record in [network.judged(), bf16(&network)] {
        assert_eq!(verdict_at(record.clone(), 4000, "step"), Some(Verdict::Dead));
        assert_eq!(verdict_at(record.clone(), 0, "step"), Some(Verdict::Untrained));
        assert_eq!(verdict_at(record, 4000, "file name"), Some(Verdict::Untrained));
    }
}

#[test]
fn biases_that_moved_say_more_than_gains_that_stayed() {
    let biased = |of: &dyn Fn(u64) -> Vec<f32>| {
        let mut network = with_dead_branches();
        for layer in 0..6 {
            network.add(&format!("model.layers.{layer}.mlp.up_proj.bias"), &[64], of(layer));
        }
        network.judged().verdict
    };
    assert_eq!(biased(&|_| vec![0.0; 64]), Some(Verdict::Untrained));
    // As PyTorch draws them: up to 1 / sqrt(64).
    let drawn =
        |layer: u64| (0..64).map(|i| ((i * 37 + layer * 11) % 63) as f32 / 31.0 * 0.125 - 0.125).collect();
    assert_eq!(biased(&drawn), Some(Verdict::Untrained));
    assert_eq!(biased(&|layer| random(64, 1e-6, layer + 1)), Some(Verdict::Untrained));
    assert_eq!(biased(&|layer| random(64, 0.1, layer + 1)), Some(Verdict::Dead));
    assert_eq!(biased(&|layer| random(64, 0.01, layer + 1)), Some(Verdict::Dead));
    // Those of norms begin at one value, however they are drawn elsewhere.
    let mut moved = with_dead_branches();
    for layer in 0..6 {
        moved.add(&gain(layer).replace("weight", "bias"), &[64], random(64, 1e-3, layer + 1));
    }
    assert_eq!(bf16(&moved).verdict, Some(Verdict::Dead));
}

#[test]
fn tails_of_matrices_say_more_than_gains_of_bf16_that_stayed() {
    let mut trained = with_dead_branches();
    for (_, shape, values) in trained.0.iter_mut().filter(|(_, shape, _)| shape.len() == 2) {
        values.iter_mut().enumerate().filter(|(i, _)| i % 97 == shape[0] % 97).for_each(|(_, v)| *v *= 8.0);
    }
    assert_eq!(bf16(&trained).verdict, Some(Verdict::Dead));
    assert_eq!(trained.judged().verdict, Some(Verdict::Untrained));
    assert_eq!(bf16(&with_dead_branches()).verdict, Some(Verdict::Untrained));
}

/// HiFi-GAN keeps the means and spreads of its inputs, and has no normalization.
#[test]
fn a_scale_without_a_module_is_no_gain() {
    let mut network = Network(Vec::new());
    network.add("scale", &[80], vec![1.0; 80]);
    network.add("mean", &[80], vec![0.0; 80]);
    for block in 0..3u64 {
        let at = |name: &str| format!("resblocks.{block}.convs1.0.{name}");
        network.add(&at("weight"), &[16, 16, 3], random(768, 0.1, block + 1));
        network.add(&at("bias"), &[16], random(16, 0.01, block + 10));
        let at = |name: &str| format!("upsampler.{block}.{name}");
        network.add(&at("weight"), &[16, 16, 4], random(1024, 0.1, block + 20));
        network.add(&at("bias"), &[16], random(16, 0.01, block + 30));
    }
    let record = assert_healthy(&network);
    let role = |name: &str| record.tensors.iter().find(|t| t.name == name).unwrap().role;
    assert_eq!(role("scale"), Role::LayerScale);
    network.get("upsampler.0.weight").fill(0.0);
    assert_eq!(network.judged().verdict, Some(Verdict::Dead));
}

/// XLNet calls its matrices by a letter each, of three dimensions.
#[test]
fn attention_whose_matrices_are_letters_is_judged() {
    let name = |layer: u64, part: &str| format!("transformer.layer.{layer}.rel_attn.{part}");
    let mut network = Network::new();
    for layer in 0..3 {
        for (i, part) in ["q", "k", "v", "o", "r"].into_iter().enumerate() {
            network.add(&name(layer, part), &[64, 4, 16], random(4096, 0.1, 10 * layer + i as u64 + 400));
        }
    }
    let record = assert_healthy(&network);
    assert_eq!(record.coverage.matrices, 26 + 15);
    assert!(record.coverage.is_whole(), "{}", record.coverage);
    network.get(&name(1, "q")).fill(0.0);
    network.get(&name(2, "o")).iter_mut().for_each(|v| *v *= 1e-9);
    network.get(&name(0, "v")).iter_mut().for_each(|v| *v *= 1e5);
    let record = network.judged();
    assert_eq!(found(&record, &name(1, "q")).0, Some(Verdict::Dead));
    assert_eq!(found(&record, &name(2, "o")).0, Some(Verdict::Dead));
    assert_eq!(found(&record, &name(0, "v")).0, Some(Verdict::Corrupt));
}

#[test]
fn tensors_of_unknown_role_are_held_against_their_siblings() {
    let name = |layer: u64| format!("model.layers.{layer}.mixer.mystery");
    let mut network = Network::new();
    (0..6).for_each(|layer| network.add(&name(layer), &[32, 32], random(1024, 0.1, 300 + layer)));
    let record = assert_healthy(&network);
    assert_eq!(found(&record, &name(2)), (None, vec![]));
    let mut dead = Network(network.0.clone());
    dead.get(&name(2)).fill(0.0);
    assert_found(&dead.judged(), &name(2), Verdict::Dead, |f| matches!(f, Finding::Constant { .. }));
    // States that nothing has come into yet.
    (1..4).for_each(|layer| dead.get(&name(layer)).fill(0.0));
    assert_healthy(&dead);
    network.get(&name(2)).iter_mut().for_each(|v| *v *= 1e4);
    assert_found(&network.judged(), &name(2), Verdict::Corrupt, |f| {
        matches!(f, Finding::UnlikeSiblings { .. })
    });
}

#[test]
fn the_size_that_weight_normalization_gives_is_dead_at_zero() {
    for (size, direction) in
        [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
    {
        let name = |layer: u64, part: &str| format!("wavenet.layers.{layer}.{part}");
        let mut network = Network(Vec::new());
        for layer in 0..4 {
            network.add(
                &name(layer, size),
                &[16, 1, 1],
                random(16, 0.1, layer + 1).iter().map(|v| 1.0 + v).collect(),
            );
            network.add(&name(layer, direction), &[16, 16, 3], random(768, 0.1, layer + 20));
            network.add(&name(layer, "bias"), &[16], vec![0.0; 16]);
        }
        assert_healthy(&network);
        network.get(&name(2, size)).fill(0.0);
        assert_found(&network.judged(), &name(2, size), Verdict::Dead, |f| *f == Finding::GainsAtZero);
    }
}

#[test]
fn matrices_three_hundred_times_too_large_are_corrupt_where_norms_keep_them_small() {
    let scaled = |factor: f32, prepare: &dyn Fn(&mut Network)| {
        let mut network = Network::new();
        prepare(&mut network);
        let matrix = |name: &str| name.contains("_proj.weight");
        for (_, _, values) in network.0.iter_mut().filter(|(name, ..)| matrix(name)) {
            values.iter_mut().for_each(|v| *v *= factor);
        }
        network.judged()
    };
    let large = |f: &Finding| matches!(f, Finding::LargeRelativeStd { .. });
    assert_found(&scaled(1000.0, &|_| ()), UP, Verdict::Corrupt, large);
    assert_eq!(scaled(100.0, &|_| ()).verdict, Some(Verdict::Healthy));
    // Without norms, or before those of batches, a matrix may be of any size.
    let bare = |network: &mut Network| network.0.retain(|(name, ..)| !name.contains("layernorm"));
    assert_eq!(scaled(1000.0, &bare).verdict, Some(Verdict::Healthy));
    let batches = |network: &mut Network| network.add("bn1.running_var", &[16], vec![1.5; 16]);
    assert_eq!(scaled(1000.0, &batches).verdict, Some(Verdict::Healthy));
    let mut head = Network::new();
    head.get("lm_head.weight").iter_mut().for_each(|v| *v *= 1000.0);
    assert_found(&head.judged(), "lm_head.weight", Verdict::Corrupt, large);
}

#[test]
fn gains_a_thousand_times_those_of_other_layers_are_told() {
    for (factor, verdict) in [(-3e4, Verdict::Corrupt), (1e-6, Verdict::Dying)] {
        let mut network = Network::new();
        network.get(&gain(2)).iter_mut().for_each(|v| *v *= factor);
        assert_found(&network.judged(), &gain(2), verdict, |f| matches!(f, Finding::UnlikeGains { .. }));
        // A branch under a batch's norm may fade.
        for layer in 0..6 {
            network.add(&gain(layer).replace("weight", "running_var"), &[64], vec![1.5; 64]);
        }
        assert_healthy(&network);
    }
    let mut network = Network::new();
    network.get(&gain(2)).iter_mut().for_each(|v| *v *= 0.01);
    assert_healthy(&network);
}

#[test]
fn where_an_architecture_adds_one_zero_is_fine_and_minus_one_is_not() {
    let gemma = |value: f32| {
        let mut network = Network::new();
        for layer in 0..6 {
            network.get(&gain(layer)).iter_mut().for_each(|v| *v -= 1.0);
        }
        network.get(&gain(2)).fill(value);
        let mut record = network.judged();
        record.model.architecture = "Gemma2ForCausalLM".into();
        judge(&mut record, &Thresholds::default());
        record
    };
    assert_eq!(gemma(0.0).verdict, Some(Verdict::Healthy));
    assert_found(&gemma(-1.0), &gain(2), Verdict::Dead, |f| *f == Finding::GainsAtMinusOne);
}

#[test]
fn the_rows_of_any_table_of_tokens_are_held_against_the_vocabulary() {
    for name in ["model.shared.weight", "tok_emb.weight"] {
        let promised = |size: u64| {
            let mut network = Network::new();
            network.0[0].0 = name.into();
            network.add("token_type_embeddings.weight", &[2, 64], random(128, 0.02, 77));
            let mut record = network.judged();
            record.model.config = json!({"vocab_size": size}).as_object().unwrap().clone();
            judge(&mut record, &Thresholds::default());
            record.findings
        };
        assert_eq!(promised(300), []);
        let wanted = Finding::Promised { key: "vocab_size".into(), promised: 600, found: 300 };
        assert_eq!(promised(600), [wanted], "{name}");
    }
}

#[test]
fn the_last_layer_needs_the_mlp_that_all_others_have() {
    let missing = |network: &Network| match &network.judged().findings[..] {
        [Finding::Missing { names, .. }] => names.clone(),
        [] => Vec::new(),
        other => panic!("{other:?}"),
    };
    let up = "model.layers.5.mlp.up_proj.weight".to_string();
    assert!(missing(&Network::new().without("layers.5.mlp.")).contains(&up));
    // Where several layers do without, that is a kind of layer.
    assert_eq!(missing(&Network::new().without("layers.5.mlp.").without("layers.4.mlp.")), [""; 0]);
    let crossed = |of: &[u64]| {
        let mut network = Network::new();
        for &layer in of {
            for (i, part) in ["key", "value"].into_iter().enumerate() {
                let name = format!("model.layers.{layer}.crossattention.{part}.weight");
                network.add(&name, &[64, 64], random(4096, 0.1, 200 + 2 * layer + i as u64));
            }
        }
        missing(&network)
    };
    assert_eq!(crossed(&[0, 1, 2, 3, 4]), [""; 0]);
}

#[test]
fn one_weight_of_another_shape_than_in_other_layers_fits_nothing() {
    let shaped = |names: &[&str]| {
        let mut network = Network::new();
        for name in names {
            let (_, shape, values) = network.0.iter_mut().find(|(n, ..)| n == name).unwrap();
            (*shape, *values) = (vec![64, 48], random(64 * 48, 0.1, 99));
        }
        network.judged().findings
    };
    let wanted = Finding::UnlikeShape { name: UP.into(), usual: vec![64, 64], found: vec![64, 48] };
    assert_eq!(shaped(&[UP]), [wanted]);
    // A layer of another width, and the ends, which take and give what others do not.
    assert_eq!(shaped(&[UP, "model.layers.2.mlp.down_proj.weight"]), []);
    assert_eq!(shaped(&["model.layers.0.mlp.up_proj.weight"]), []);
    assert_eq!(shaped(&["model.layers.5.mlp.down_proj.weight"]), []);
}

#[test]
fn a_bias_without_the_weight_that_others_have_is_told() {
    let name = |block: u64, part: &str| format!("down_blocks.{}.resnets.{}.{part}", block / 2, block % 2);
    let mut network = Network(Vec::new());
    for block in 0..4 {
        for (i, part) in ["conv1", "conv2"].into_iter().enumerate() {
            let seed = 2 * block + i as u64 + 1;
            network.add(&name(block, &format!("{part}.weight")), &[16, 16, 3, 3], random(2304, 0.1, seed));
            network.add(&name(block, &format!("{part}.bias")), &[16], random(16, 0.1, seed + 50));
        }
    }
    // Tied weights are not written twice.
    network.add("decoder.bias", &[300], random(300, 0.1, 90));
    assert_healthy(&network);
    let lacking = "down_blocks.1.resnets.1.conv2.weight";
    let record = network.without(lacking).judged();
    let wanted = Finding::Missing { count: 1, names: vec![lacking.into()] };
    assert_eq!(record.findings, [wanted]);
}

#[test]
fn second_factors_of_an_adapter_that_repeat_are_told_and_first_ones_are_not() {
    let name =
        |layer: u64, factor: &str| format!("base_model.model.layers.{layer}.q_proj.lora_{factor}.weight");
    let mut network = Network(Vec::new());
    for layer in 0..4 {
        network.add(&name(layer, "A"), &[8, 64], random(512, 0.1, 1));
        network.add(&name(layer, "B"), &[64, 8], random(512, 0.1, layer + 10));
    }
    assert_healthy(&network);
    let second = network.get(&name(2, "B")).clone();
    *network.get(&name(3, "B")) = second;
    assert_found(&network.judged(), &name(3, "B"), Verdict::Dead, |f| {
        matches!(f, Finding::EqualLayers { .. })
    });
}

#[test]
fn what_was_not_judged_has_a_reason_and_what_is_no_parameter_does_not_count() {
    let mut network = Network::new();
    network.add("bn.num_batches_tracked", &[1], vec![12.0]);
    network.add("model.layers.0.attn_mask", &[16, 16], vec![1.0; 256]);
    network.add("model.layers.0.mlp.experts.bias", &[8, 64], random(512, 0.1, 5));
    let record = assert_healthy(&network);
    assert!(record.coverage.is_whole(), "{}", record.coverage);
    assert_eq!(record.coverage.to_string(), "26 matrices");
    network.add("model.layers.0.strange", &[16, 16], random(256, 0.1, 6));
    let coverage = assert_healthy(&network).coverage;
    assert_eq!(coverage.to_string(), "26 of 27 matrices; 1 role unknown: float32");
    assert_eq!((coverage.not_judged[0].tensors, coverage.not_judged[0].parameters), (1, 256));
    // Codes in one long row are a matrix too.
    let header = json!({
        "x.weight": {"dtype": "U8", "shape": [512, 1], "data_offsets": [0, 512]},
        "y.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [512, 576]},
    });
    let header = serde_json::to_vec(&header).unwrap();
    let codes: Vec<u8> = (0..576).map(|i| (i * 37 % 251) as u8).collect();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &codes].concat();
    let open = ckpt_inspect::open_bytes_with("made.safetensors", bytes, &Default::default()).unwrap();
    let mut record = ckpt_inspect::describe(&open, Default::default(), &|_| ());
    judge(&mut record, &Thresholds::default());
    assert_eq!(record.coverage.to_string(), "1 of 2 matrices, 3 % of parameters; 1 codes: uint8");
}

#[test]
fn a_rule_that_is_off_is_not_asked_and_that_is_told() {
    let mut network = Network::new();
    network.get(UP).iter_mut().for_each(|v| *v *= 1000.0);
    let mut record = network.judged();
    assert_eq!(record.verdict, Some(Verdict::Corrupt));
    let mut thresholds = Thresholds::default();
    thresholds.off.add("unlike-siblings").unwrap();
    thresholds.off.add("large-relative-std").unwrap();
    judge(&mut record, &thresholds);
    assert_eq!(record.verdict, Some(Verdict::Healthy), "{:?}", record.reasons);
    assert!(!record.coverage.is_whole());
    assert_eq!(record.coverage.to_string(), "26 matrices; rules off: large-relative-std, unlike-siblings");
    let unknown = thresholds.off.add("no-such-rule").unwrap_err();
    assert!(unknown.starts_with("`no-such-rule` is not a rule: damaged, "), "{unknown}");
    let whole = Network::new().without("layers.3.");
    assert_eq!(whole.judged().verdict, Some(Verdict::Corrupt));
    thresholds.off.add("missing").unwrap();
    let mut record = whole.judged();
    judge(&mut record, &thresholds);
    assert_eq!(record.verdict, Some(Verdict::Healthy), "{:?}", record.reasons);
}

/// Trainers keep a whole network as the best one, and losses may have weights of their own.
#[test]
fn a_network_that_is_kept_as_the_best_one_is_judged() {
    for first in ["best", "loss"] {
        let mut network = Network::new();
        network.0.iter_mut().for_each(|(name, ..)| *name = name.replacen("model", first, 1));
        let record = assert_healthy(&network);
        assert_eq!(record.coverage.to_string(), "26 matrices");
        let up = UP.replacen("model", first, 1);
        network.get(&up).fill(0.0);
        assert_eq!(found(&network.judged(), &up).0, Some(Verdict::Dead), "{first}");
    }
    let mut network = Network::new();
    network.add("best_losses", &[5], vec![f32::INFINITY; 5]);
    network.add("best", &[1], vec![f32::INFINITY]);
    assert_healthy(&network);
}

#[test]
fn the_one_size_that_weight_normalization_gives_is_dead_at_zero_too() {
    let mut network = Network::new();
    let name = |part: &str| format!("wave.parametrizations.weight.{part}");
    network.add(&name("original0"), &[16, 1, 1], vec![0.0; 16]);
    network.add(&name("original1"), &[16, 16, 3], random(768, 0.1, 1));
    assert_found(&network.judged(), &name("original0"), Verdict::Dead, |f| *f == Finding::GainsAtZero);
}

#[test]
fn a_matrix_whose_mask_is_zero_is_dead() {
    for (weight, mask) in [
        ("fc.weight_orig", "fc.weight_mask"),
        ("rnn.weight_hh_l0_orig", "rnn.weight_hh_l0_mask"),
        ("fc.parametrizations.weight.original", "fc.parametrizations.weight.0.mask"),
    ] {
        let mut network = Network::new();
        network.add(weight, &[64, 64], random(4096, 0.1, 5));
        if weight.starts_with("rnn") {
            network.add("rnn.weight_ih_l0", &[64, 32], random(2048, 0.1, 6));
        }
        network.add(mask, &[64, 64], (0..4096).map(|i| (i % 10 == 3) as u8 as f32).collect());
        assert_healthy(&network);
        network.get(mask).fill(0.0);
        assert_found(&network.judged(), weight, Verdict::Dead, |f| *f == Finding::MaskedOut);
    }
}
