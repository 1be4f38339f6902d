//! Parts that a checkpoint is without, and parts that are meant to be as they are: found on models that transformers builds,
//! made here in small.

use serde_json::json;

use crate::judge::{Network, assert_found, assert_healthy, random};
use crate::judge_whole::with_config;
use ckpt_inspect::{CheckpointRecord, Finding, Thresholds, Verdict, judge};

/// Four layers of which the first is dense and the others have four experts each, as DeepSeek's models have them.
fn mixture() -> Network {
    let mut network = Network(Vec::new());
    let mut seed = 1;
    let mut add = |network: &mut Network, name: &str, rows: usize| {
        seed += 1;
        network.add(name, &[rows, 64], random(rows * 64, 0.1, seed));
    };
    add(&mut network, "model.embed_tokens.weight", 300);
    for layer in 0..4 {
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        for name in ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"] {
            add(&mut network, &at(&format!("self_attn.{name}")), 64);
        }
        let mlp = |prefix: &str| ["gate_proj", "up_proj", "down_proj"].map(|n| at(&format!("{prefix}.{n}")));
        if layer == 0 {
            mlp("mlp").iter().for_each(|name| add(&mut network, name, 64));
        } else {
            add(&mut network, &at("mlp.gate"), 64);
            let experts = (0..4).map(|n| format!("mlp.experts.{n}")).chain(["mlp.shared_experts".into()]);
            experts.flat_map(|of| mlp(&of)).for_each(|name| add(&mut network, &name, 64));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            network.add(&at(name), &[64], random(64, 0.05, 900 + layer).iter().map(|x| 1.0 + x).collect());
        }
    }
    network.add("model.norm.weight", &[64], random(64, 0.05, 990).iter().map(|x| 1.0 + x).collect());
    add(&mut network, "lm_head.weight", 300);
    network
}

fn config() -> serde_json::Value {
    json!({"model_type": "deepseek_v3", "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 4,
        "tie_word_embeddings": false, "n_routed_experts": 4})
}

/// `network` beside that configuration.
fn described(network: &Network) -> CheckpointRecord {
    let mut record = with_config(network, config());
    record.model.architecture = "DeepseekV3ForCausalLM".into();
    judge(&mut record, &Thresholds::default());
    record
}

/// What is said to be missing.
fn missing(record: &CheckpointRecord) -> Vec<String> {
    let names = |f: &Finding| match f {
        Finding::Missing { names, .. } => names.clone(),
        _ => Vec::new(),
    };
    record.findings.iter().flat_map(names).collect()
}

#[test]
fn a_part_is_missed_in_layers_of_several_kinds() {
    let whole = described(&mixture());
    assert_eq!(whole.verdict, Some(Verdict::Healthy), "{:?}", whole.reasons);
    for (part, name) in [
        ("layers.2.mlp.experts.1.up_proj", "model.layers.2.mlp.experts.1.up_proj.weight"),
        ("layers.2.mlp.experts.1.", "model.layers.2.mlp.experts.1"),
        ("layers.3.mlp.experts.3.", "model.layers.3.mlp.experts.3"),
        ("layers.2.mlp.gate.", "model.layers.2.mlp.gate.weight"),
        ("layers.3.self_attn.o_proj", "model.layers.3.self_attn.o_proj.weight"),
    ] {
        let record = described(&mixture().without(part));
        assert_eq!(missing(&record), [name], "{part}");
        assert_eq!(record.verdict, Some(Verdict::Corrupt));
    }
    // Without a configuration the last expert of one of three layers may be none.
    assert_healthy(&mixture().without("layers.3.mlp.experts.3."));
}

/// Modules of PyTorch, each of which is several tensors.
fn modules() -> Network {
    let mut network = Network(Vec::new());
    let mut seed = 1;
    let mut add = |name: &str, shape: &[usize]| {
        seed += 1;
        let count = shape.iter().product();
        let spread = if name.ends_with("running_var") || shape.len() == 1 { 0.02 } else { 0.1 };
        let values: Vec<f32> = random(count, spread, seed);
        let near_one =
            name.ends_with("running_var") || name.ends_with("bn1.weight") || name.ends_with("bn2.weight");
        let values = values.iter().map(|x| if near_one { 1.0 + x } else { *x }).collect();
        network.add(name, shape, values);
    };
    for layer in 0..2 {
        for back in ["", "_reverse"] {
            for part in ["weight_ih", "weight_hh"] {
                add(&format!("rnn.{part}_l{layer}{back}"), &[64, 16]);
            }
            for part in ["bias_ih", "bias_hh"] {
                add(&format!("rnn.{part}_l{layer}{back}"), &[64]);
            }
        }
        for block in 0..2 {
            for number in 1..3 {
                let at = format!("layer{}.{block}", layer + 1);
                add(&format!("{at}.conv{number}.weight"), &[16, 16, 3, 3]);
                for part in ["weight", "bias", "running_mean", "running_var"] {
                    add(&format!("{at}.bn{number}.{part}"), &[16]);
                }
            }
        }
        for module in ["q_proj", "v_proj"] {
            add(&format!("adapted.{layer}.{module}.lora_A.weight"), &[4, 32]);
            add(&format!("adapted.{layer}.{module}.lora_B.weight"), &[32, 4]);
        }
    }
    add("head.parametrizations.weight.original0", &[16, 1]);
    add("head.parametrizations.weight.original1", &[16, 16]);
    network
}

#[test]
fn what_is_of_no_use_without_another_tensor_misses_it() {
    assert_eq!(missing(&modules().judged()), [""; 0]);
    for name in [
        "rnn.weight_hh_l1_reverse",
        "rnn.weight_ih_l0_reverse",
        "layer1.1.bn2.running_var",
        "layer2.0.bn1.running_mean",
        "layer1.1.conv2.weight",
        "adapted.1.v_proj.lora_B.weight",
        "head.parametrizations.weight.original0",
    ] {
        let record = modules().without(name).judged();
        assert_eq!(missing(&record), [name]);
        assert_eq!(record.verdict, Some(Verdict::Corrupt));
    }
}

#[test]
fn a_model_that_writes_has_its_tables_and_its_last_norm() {
    for (part, told) in [
        ("embed_tokens", "one of two tables of its 300 tokens, embedding and head"),
        ("lm_head", "one of two tables of its 300 tokens, embedding and head"),
        ("model.norm", "the norm behind its layers"),
    ] {
        assert_eq!(missing(&described(&mixture().without(part))), [told]);
    }
    let neither = mixture().without("embed_tokens").without("lm_head");
    assert_eq!(missing(&described(&neither)), ["a table of its 300 tokens"]);
    // One table may be both, unless the configuration says that they are two.
    let mut tied = config();
    tied.as_object_mut().unwrap().remove("tie_word_embeddings");
    let mut record = with_config(&mixture().without("lm_head"), tied);
    record.model.architecture = "DeepseekV3ForCausalLM".into();
    judge(&mut record, &Thresholds::default());
    assert_eq!(record.verdict, Some(Verdict::Healthy), "{:?}", record.reasons);
}

#[test]
fn gains_of_zero_are_dead_where_an_architecture_multiplies_plainly() {
    let gain = "model.layers.2.input_layernorm.weight";
    for (architecture, verdict) in [
        ("Gemma2ForCausalLM", Verdict::Healthy),
        ("Gemma4ForConditionalGeneration", Verdict::Dead),
        ("Gemma3nForConditionalGeneration", Verdict::Dead),
        ("Qwen3_5ForCausalLM", Verdict::Healthy),
        ("NemotronHForCausalLM", Verdict::Dead),
    ] {
        let mut network = mixture();
        network.get(gain).fill(0.0);
        let mut record = network.judged();
        record.model.architecture = architecture.into();
        judge(&mut record, &Thresholds::default());
        assert_eq!(record.verdict, Some(verdict), "{architecture}: {:?}", record.reasons);
    }
}

#[test]
fn the_gate_of_the_only_dense_layer_does_not_begin_at_zero() {
    let mut network = mixture();
    network.get("model.layers.0.mlp.gate_proj.weight").fill(0.0);
    assert_found(&network.judged(), "model.layers.0.mlp.gate_proj.weight", Verdict::Dead, |f| {
        matches!(f, Finding::Constant { .. })
    });
}

/// A trained network of two convolutions with a batch's norm behind each, of which the second has lost channels.
fn faded(scale: f32, variance: f32) -> Network {
    let mut network = Network(Vec::new());
    for layer in [0, 3] {
        network.add(&format!("{layer}.weight"), &[64, 64, 3, 3], random(64 * 64 * 9, 0.05, layer + 1));
        let norm = layer + 1;
        network.add(
            &format!("{norm}.weight"),
            &[64],
            random(64, 0.1, norm + 9).iter().map(|x| 1.0 + x).collect(),
        );
        network.add(&format!("{norm}.bias"), &[64], random(64, 0.1, norm + 19));
        network.add(&format!("{norm}.running_mean"), &[64], random(64, 0.1, norm + 29));
        network.add(&format!("{norm}.running_var"), &[64], vec![0.7; 64]);
    }
    network.get("3.weight")[..12 * 64 * 9].iter_mut().for_each(|w| *w *= scale);
    network.get("4.running_var")[..12].fill(variance);
    network
}

#[test]
fn channels_that_died_in_training_are_fine_and_lost_ones_are_not() {
    for scale in [1e-7, 1e-20, 0.0] {
        assert_healthy(&faded(scale, 1e-14));
        let record = faded(scale, 0.7).judged();
        assert_found(&record, "3.weight", if scale > 0.0 { Verdict::Weak } else { Verdict::Dead }, |f| {
            matches!(f, Finding::ZeroRows { .. } | Finding::ZeroHole { .. })
        });
    }
}

#[test]
fn filters_that_nothing_trains_are_fine() {
    let with = |name: &str, shape: &[usize], values: Vec<f32>| {
        let mut network = Network::new();
        network.add(name, shape, values);
        network
    };
    let gauss: Vec<f32> = [1.0, 4.0, 6.0, 4.0, 1.0].map(|x| x / 16.0).to_vec();
    let kernel: Vec<f32> = gauss.iter().flat_map(|a| gauss.iter().map(move |b| a * b)).collect();
    assert_healthy(&with("smooth.weight", &[64, 1, 5, 5], kernel.repeat(64)));
    // Beside a bias it is a layer that learns.
    let mut learnt = with("smooth.weight", &[64, 1, 5, 5], kernel.repeat(64));
    learnt.add("smooth.bias", &[64], random(64, 0.1, 3));
    assert_found(&learnt.judged(), "smooth.weight", Verdict::Dead, |f| {
        matches!(f, Finding::EqualRows { .. })
    });
    // What interpolates has a kernel for each channel on the diagonal.
    let mut bilinear = vec![0.0; 21 * 21 * 16 * 16];
    for channel in 0..21 {
        for at in 0..256 {
            let side = |n: usize| 1.0 - (n as f32 - 7.5).abs() / 8.0;
            bilinear[(channel * 21 + channel) * 256 + at] = side(at / 16) * side(at % 16);
        }
    }
    assert_healthy(&with("upscore8.weight", &[21, 21, 16, 16], bilinear));
}

#[test]
fn places_that_are_all_alike_are_dead() {
    let mut network = Network::new();
    network.add("model.embed_positions.weight", &[128, 64], random(64, 0.1, 5).repeat(128));
    assert_found(&network.judged(), "model.embed_positions.weight", Verdict::Dead, |f| {
        matches!(f, Finding::EqualRows { .. })
    });
}

#[test]
fn zeros_before_the_last_rows_of_a_head_are_no_padding() {
    let head = "lm_head.weight";
    let zeroed = |rows: std::ops::Range<usize>| {
        let mut network = Network::new();
        network.get(head)[rows.start * 64..rows.end * 64].fill(0.0);
        network
    };
    assert_healthy(&zeroed(200..300));
    for rows in [0..100, 100..200] {
        assert_found(&zeroed(rows).judged(), head, Verdict::Dead, |f| matches!(f, Finding::ZeroHole { .. }));
    }
}

#[test]
fn factors_of_adapters_that_begin_at_zero_are_untrained() {
    for name in ["lora_embedding_A", "hada_w2_b", "hada_w2_a", "lokr_w2", "lokr_w1"] {
        let mut network = Network(Vec::new());
        network.add(&format!("base.layers.0.q.{name}"), &[8, 64], vec![0.0; 512]);
        network.add("base.layers.0.q.hada_w1_a", &[64, 8], random(512, 0.1, 1));
        assert_eq!(network.judged().verdict, Some(Verdict::Untrained), "{name}");
    }
}

#[test]
fn a_movement_begins_as_one_that_moves_nothing() {
    let moving = |bias: Vec<f32>| {
        let mut network = Network(Vec::new());
        for (name, rows, cols) in [("localization.0", 32, 49), ("fc_loc.0", 32, 90), ("fc1", 50, 64)] {
            network.add(&format!("{name}.weight"), &[rows, cols], random(rows * cols, 0.1, rows as u64));
            network.add(&format!("{name}.bias"), &[rows], random(rows, 0.3, cols as u64));
        }
        network.add("fc_loc.2.weight", &[6, 32], vec![0.0; 192]);
        network.add("fc_loc.2.bias", &[6], bias);
        network.judged().verdict
    };
    assert_eq!(moving(vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), Some(Verdict::Untrained));
    assert_eq!(moving(vec![1.0, 0.3, 0.0, 0.0, 1.0, 0.0]), Some(Verdict::Dead));
}

#[test]
fn a_class_that_runs_another_type_of_model_promises_no_names() {
    let config = json!({"model_type": "exaone", "architectures": ["LlamaForCausalLM"], "vocab_size": 300,
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": true});
    let renamed = Network(
        Network::new()
            .0
            .into_iter()
            .map(|(n, s, v)| (n.replace("model.layers", "transformer.h"), s, v))
            .collect(),
    );
    let mut network = renamed;
    network.add("transformer.ln_f.weight", &[64], random(64, 0.05, 8).iter().map(|x| 1.0 + x).collect());
    let mut record = with_config(&network, config);
    record.model.architecture = "LlamaForCausalLM".into();
    judge(&mut record, &Thresholds::default());
    assert_eq!(record.verdict, Some(Verdict::Healthy), "{:?}", record.reasons);
}

/// PEFT may train a bias of the second factor alone; dropped and pruned recurrent weights have more behind their names.
#[test]
fn what_stands_beside_one_twin_alone_is_not_missed_in_the_other() {
    let mut network = Network::new();
    for layer in 0..4u64 {
        let name = |part: &str| format!("base_model.model.layers.{layer}.q_proj.{part}");
        network.add(&name("lora_A.weight"), &[8, 64], random(512, 0.1, layer + 60));
        network.add(&name("lora_B.weight"), &[64, 8], random(512, 0.1, layer + 70));
        network.add(&name("lora_B.bias"), &[64], random(64, 0.1, layer + 80));
    }
    for (layer, input, recurrent) in
        [(0, "weight_ih_l0", "weight_hh_l0_orig"), (1, "module.weight_ih_l0", "weight_hh_l0_raw")]
    {
        let name = |part: &str| format!("rnns.{layer}.{part}");
        network.add(&name(input), &[128, 64], random(8192, 0.1, layer + 90));
        network.add(&name(recurrent), &[128, 32], random(4096, 0.1, layer + 95));
    }
    network.add(
        "rnns.0.weight_hh_l0_mask",
        &[128, 32],
        (0..4096).map(|i| (i % 3 == 0) as u8 as f32).collect(),
    );
    assert_healthy(&network);
    let alone = network.without("layers.2.q_proj.lora_B.weight");
    assert!(alone.judged().verdict > Some(Verdict::Untrained));
}
