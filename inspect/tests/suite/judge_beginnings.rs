//! What is no fault in a network that has not been trained, and is one in a trained network.

use ckpt_inspect::{Finding, Thresholds, Verdict, judge};

use super::judge::{Network, assert_found, assert_healthy, found, random};

/// A perceptron with names of its own, whose biases are all zero, or as PyTorch draws them.
fn perceptron(drawn: bool) -> Network {
    let mut network = Network(Vec::new());
    for (layer, (rows, cols)) in [(64, 32), (64, 64), (32, 64)].into_iter().enumerate() {
        let seed = layer as u64 + 1;
        let bias = if drawn { random(rows, 0.1, seed + 50) } else { vec![0.0; rows] };
        network.add(&format!("net.{}.weight", 2 * layer), &[rows, cols], random(rows * cols, 0.1, seed));
        network.add(&format!("net.{}.bias", 2 * layer), &[rows], bias);
    }
    network
}

fn verdict(network: &Network, name: &str) -> Option<Verdict> {
    found(&network.judged(), name).0
}

#[test]
fn a_last_layer_at_zero_is_untrained_where_nothing_was_trained() {
    let mut fresh = perceptron(false);
    fresh.get("net.4.weight").fill(0.0);
    assert_eq!(verdict(&fresh, "net.4.weight"), Some(Verdict::Untrained));
    // Its bias is not zero, so that something was trained, and this was not.
    let mut trained = perceptron(true);
    trained.get("net.4.weight").fill(0.0);
    assert_eq!(verdict(&trained, "net.4.weight"), Some(Verdict::Dead));
    let mut begun = perceptron(true);
    begun.get("net.4.weight").fill(0.0);
    begun.get("net.4.bias").fill(0.0);
    assert_eq!(verdict(&begun, "net.4.weight"), Some(Verdict::Untrained));
    // No last layer.
    let mut hidden = perceptron(true);
    hidden.get("net.2.weight").fill(0.0);
    hidden.get("net.2.bias").fill(0.0);
    assert_eq!(verdict(&hidden, "net.2.weight"), Some(Verdict::Dead));
}

#[test]
fn what_is_of_one_value_at_step_0_is_untrained() {
    let mut network = perceptron(true);
    network.get("net.2.weight").fill(0.25);
    let mut record = network.judged();
    assert_eq!(record.verdict, Some(Verdict::Dead));
    for (step, source, verdict) in
        [(0, "step", Verdict::Untrained), (0, "file name", Verdict::Dead), (7, "step", Verdict::Dead)]
    {
        (record.step, record.step_source) = (Some(step), Some(source.into()));
        judge(&mut record, &Thresholds::default());
        assert_eq!(record.verdict, Some(verdict), "{step} by {source}");
    }
}

#[test]
fn a_router_or_a_modulation_at_zero_in_one_layer_of_a_trained_network_is_dead() {
    for part in ["mlp.gate", "adaLN_modulation.1"] {
        let name = |layer: u64| format!("model.layers.{layer}.{part}.weight");
        let mut network = Network::new();
        for layer in 0..6 {
            network.add(&name(layer), &[8, 64], random(512, 0.1, 40 + layer));
            for expert in 0..8 {
                let up = format!("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight");
                network.add(&up, &[32, 64], random(2048, 0.1, 1000 + 10 * layer + expert));
            }
        }
        assert_healthy(&network);
        network.get(&name(3)).fill(0.0);
        assert_eq!(verdict(&network, &name(3)), Some(Verdict::Dead), "{part}");
    }
    // All of them in a fresh network.
    let mut fresh = Network::new();
    for layer in 0..6 {
        fresh.get(&format!("model.layers.{layer}.input_layernorm.weight")).fill(1.0);
        fresh.add(&format!("model.layers.{layer}.mlp.router.gate.weight"), &[8, 64], vec![0.0; 512]);
    }
    assert_eq!(fresh.judged().verdict, Some(Verdict::Untrained));
}

#[test]
fn both_ends_of_a_branch_at_zero_are_dead_in_a_fresh_network_too() {
    let mut network = Network::new();
    for layer in 0..6 {
        network.get(&format!("model.layers.{layer}.input_layernorm.weight")).fill(1.0);
        network.add(&format!("model.layers.{layer}.fc1.weight"), &[128, 64], vec![0.0; 8192]);
        network.add(&format!("model.layers.{layer}.fc2.weight"), &[64, 128], random(8192, 0.1, layer + 70));
    }
    assert_eq!(network.judged().verdict, Some(Verdict::Untrained));
    for layer in 0..6 {
        network.get(&format!("model.layers.{layer}.fc2.weight")).fill(0.0);
    }
    assert_eq!(network.judged().verdict, Some(Verdict::Dead));
}

#[test]
fn last_layers_begin_small_and_layers_within_do_not() {
    for (drawn, name, factor, wanted) in [
        (false, "net.4.weight", 1e-2, Verdict::Healthy),
        (true, "net.4.weight", 1e-3, Verdict::Healthy),
        (true, "net.4.weight", 1e-6, Verdict::Dead),
        (true, "net.2.weight", 1e-2, Verdict::Weak),
    ] {
        let mut network = perceptron(drawn);
        network.get(name).iter_mut().for_each(|v| *v *= factor);
        assert_eq!(verdict(&network, name), Some(wanted), "{name} {factor}");
    }
    let mut trained = Network::new();
    trained.get("lm_head.weight").iter_mut().for_each(|v| *v *= 1e-3);
    assert_found(&trained.judged(), "lm_head.weight", Verdict::Weak, |f| {
        matches!(f, Finding::SmallRelativeStd { .. })
    });
}

#[test]
fn tables_of_hashes_begin_small() {
    let mut network = perceptron(true);
    network.add("encoding.hash_tables.0.weight", &[2048, 2], random(4096, 1e-4, 5));
    network.add("lookup.weight", &[2048, 2], random(4096, 1e-4, 6));
    assert_healthy(&network);
}

#[test]
fn spreads_of_weights_that_are_random_are_no_matrices() {
    let mut network = perceptron(true);
    network.add("net.6.weight_sigma", &[64, 64], vec![0.017; 4096]);
    network.add("net.6.weight_epsilon", &[64, 64], vec![0.0; 4096]);
    assert_healthy(&network);
}

#[test]
fn layers_that_were_copied_to_begin_with_are_untrained() {
    let part = |layer: u64, part: &str| format!("model.layers.{layer}.{part}.weight");
    let copied = |of: std::ops::Range<u64>| {
        let mut network = Network::new();
        for layer in 0..6 {
            network.get(&part(layer, "input_layernorm")).fill(1.0);
        }
        for layer in of.start + 1..of.end {
            for name in ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"] {
                let first = network.get(&part(of.start, name)).clone();
                *network.get(&part(layer, name)) = first;
            }
        }
        network
    };
    assert_eq!(copied(0..6).judged().verdict, Some(Verdict::Untrained));
    // Not one or two of them.
    assert_eq!(copied(2..4).judged().verdict, Some(Verdict::Dead));
    let mut trained = copied(0..6);
    trained.get(&part(3, "input_layernorm"))[0] = 1.01;
    assert_eq!(trained.judged().verdict, Some(Verdict::Dead));
}
