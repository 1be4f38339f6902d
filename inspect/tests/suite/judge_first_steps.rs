//! Networks that have taken a few steps: what began at zero is tiny, and its rows may be alike or zero still.

use ckpt_inspect::{CheckpointRecord, Finding, Thresholds, Verdict, judge};

use super::judge::{Network, assert_found, assert_healthy, found, random};

/// Plus or minus one learning rate, as a first step of Adam leaves what was zero: rows of classes that were not in the
/// batch are alike.
fn stepped(rows: usize, cols: usize, lr: f32) -> Vec<f32> {
    let sign = |row: usize, col: usize| if (col * 7 + row / 3 * 3).is_multiple_of(2) { lr } else { -lr };
    (0..rows * cols)
        .map(|i| if i / cols < 12 { sign(i / cols, i % cols) } else { sign(0, i % cols) })
        .collect()
}

/// A trained body and a head of 200 classes, both its parts of this size.
fn with_head(weight: Vec<f32>, bias: Option<f32>) -> Network {
    let mut network = Network::new();
    network.add("classifier.weight", &[200, 64], weight);
    if let Some(bias) = bias {
        network.add("classifier.bias", &[200], random(200, bias, 77));
    }
    network
}

fn at(mut record: CheckpointRecord, step: u64) -> CheckpointRecord {
    (record.step, record.step_source) = (Some(step), Some("step".into()));
    judge(&mut record, &Thresholds::default());
    record
}

fn is_begun(finding: &Finding) -> bool {
    matches!(finding, Finding::Begun { .. })
}

#[test]
fn a_head_that_began_at_zero_may_be_tiny_and_alike() {
    for lr in [1e-5, 1e-4, 1e-3] {
        let network = with_head(stepped(200, 64, lr), Some(lr / 2.0));
        assert_found(&network.judged(), "classifier.weight", Verdict::Untrained, is_begun);
        assert_eq!(network.judged().verdict, Some(Verdict::Untrained), "{lr}");
        let dead = Some(Verdict::Dead);
        // Its bias is of its former size; there is none; it has taken thousands of steps.
        for died in [with_head(stepped(200, 64, lr), Some(0.1)), with_head(stepped(200, 64, lr), None)] {
            assert_eq!(found(&died.judged(), "classifier.weight").0, dead, "{lr}");
        }
        assert_eq!(found(&at(network.judged(), 40_000), "classifier.weight").0, dead, "{lr}");
        let alone = with_head(stepped(200, 64, lr), None);
        assert_eq!(found(&at(alone.judged(), 3), "classifier.weight").0, Some(Verdict::Untrained), "{lr}");
    }
}

#[test]
fn modulation_may_begin_in_some_rows_before_others() {
    let name = |layer: u64| format!("model.layers.{layer}.adaLN_modulation.1.weight");
    let mut network = Network::new();
    for layer in 0..6 {
        let mut values = stepped(192, 64, 1e-4);
        values[..64 * 128].fill(0.0);
        network.add(&name(layer), &[192, 64], values);
        network.add(&name(layer).replace("weight", "bias"), &[192], random(192, 3e-5, layer + 3));
    }
    assert_eq!(network.judged().verdict, Some(Verdict::Untrained));
    // The other layers have learnt theirs.
    (0..6).filter(|layer| *layer != 2).for_each(|layer| {
        *network.get(&name(layer)) = random(192 * 64, 0.02, layer + 50);
    });
    assert_eq!(found(&network.judged(), &name(2)).0, Some(Verdict::Dead));
}

#[test]
fn zero_convolutions_begin_small() {
    let name = |block: u64, part: &str| format!("zero_convs.{block}.0.{part}");
    let mut network = Network::new();
    for block in 0..4 {
        network.add(&name(block, "weight"), &[32, 32, 1, 1], random(1024, 1e-6, block + 1));
        network.add(&name(block, "bias"), &[32], vec![0.0; 32]);
    }
    assert_eq!(network.judged().verdict, Some(Verdict::Untrained));
    network.get(&name(1, "bias")).copy_from_slice(&random(32, 0.1, 9));
    assert_eq!(found(&network.judged(), &name(1, "weight")).0, Some(Verdict::Dead));
}

#[test]
fn last_layers_of_branches_begin_small_where_the_steps_are_told() {
    let mut network = Network::new();
    for layer in 0..6 {
        let down = format!("model.layers.{layer}.mlp.down_proj.weight");
        network.get(&down).iter_mut().for_each(|v| *v *= 1e-3);
    }
    assert_eq!(at(network.judged(), 2).verdict, Some(Verdict::Untrained));
    assert_ne!(at(network.judged(), 2000).verdict, Some(Verdict::Untrained));
    assert!(at(network.judged(), 2000).verdict > Some(Verdict::Untrained));
}

/// Adapters in a frozen network, of which the second matrices began at zero with their biases.
#[test]
fn ends_of_branches_begin_small_beside_what_is_not() {
    let name = |layer: u64, part: &str| format!("model.layers.{layer}.adapter.{part}");
    let mut network = Network::new();
    for layer in 0..6 {
        network.add(&name(layer, "down.weight"), &[8, 64], random(512, 0.1, layer + 30));
        network.add(&name(layer, "down.bias"), &[8], random(8, 0.1, layer + 40));
        network.add(&name(layer, "up.weight"), &[64, 8], random(512, 1e-5, layer + 50));
        network.add(&name(layer, "up.bias"), &[64], random(64, 1e-5, layer + 60));
    }
    assert_eq!(network.judged().verdict, Some(Verdict::Untrained));
    let mut died = Network(network.0.clone());
    (0..6).for_each(|layer| died.get(&name(layer, "up.bias")).copy_from_slice(&random(64, 0.1, layer)));
    assert_eq!(found(&died.judged(), &name(2, "up.weight")).0, Some(Verdict::Dead));
    // Both ends of the branch have faded.
    for layer in 0..6 {
        network.get(&name(layer, "down.weight")).iter_mut().for_each(|v| *v *= 1e-4);
    }
    assert_eq!(found(&network.judged(), &name(2, "up.weight")).0, Some(Verdict::Dead));
}

/// As PyTorch draws it: up to 1 / sqrt(fan_in).
pub(crate) fn drawn(n: usize, fan_in: usize, seed: u64) -> Vec<f32> {
    let bound = 1.0 / (fan_in as f32).sqrt();
    let mut values: Vec<f32> = (0..n as u64)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) % 100_003) as f32)
        .map(|x| (x / 50_001.0 - 1.0) * bound)
        .collect();
    values[0] = bound * 0.999;
    values
}

#[test]
fn flows_begin_with_last_weights_at_zero_and_biases_as_they_are_drawn() {
    let flow = |bias: f32| {
        let mut network = Network(Vec::new());
        for net in 0..4 {
            let name = |part: &str| format!("nets.{net}.{part}");
            network.add(&name("0.weight"), &[14, 4], drawn(56, 4, net + 1));
            network.add(&name("0.bias"), &[14], drawn(14, 4, net + 11));
            network.add(&name("2.weight"), &[14, 14], drawn(196, 14, net + 21));
            network.add(&name("2.bias"), &[14], drawn(14, 14, net + 31));
            network.add(&name("4.weight"), &[8, 14], vec![0.0; 112]);
            network.add(&name("4.bias"), &[8], drawn(8, 14, net + 41).iter().map(|v| v * bias).collect());
        }
        network
    };
    assert_eq!(flow(1.0).judged().verdict, Some(Verdict::Untrained));
    // A step of training leaves the bounds.
    assert_eq!(flow(1.3).judged().verdict, Some(Verdict::Dead));
    let mut hidden = flow(1.0);
    hidden.get("nets.1.0.weight").fill(0.0);
    assert_eq!(found(&hidden.judged(), "nets.1.0.weight").0, Some(Verdict::Dead));
}

#[test]
fn recurrent_layers_may_begin_with_identities() {
    let eye = |n: usize| (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    for gates in [1, 4] {
        let mut network = Network(Vec::new());
        network.add("rnn.weight_ih_l0", &[64 * gates, 20], random(1280 * gates, 1e-3, 1));
        network.add("rnn.weight_hh_l0", &[64 * gates, 64], eye(64).repeat(gates));
        network.add("rnn.bias_ih_l0", &[64 * gates], vec![0.0; 64 * gates]);
        network.add("rnn.bias_hh_l0", &[64 * gates], vec![0.0; 64 * gates]);
        network.add("fc.weight", &[10, 64], random(640, 0.1, 2));
        assert_healthy(&network);
    }
    // Two layers that begin alike.
    let mut twice = Network::new();
    (0..2).for_each(|layer| twice.add(&format!("mix.{layer}.proj.weight"), &[32, 32], eye(32)));
    assert_healthy(&twice);
}

#[test]
fn what_gives_answers_may_begin_small_or_at_zero() {
    // A policy's last layer among those of its sequence.
    let mut policy = Network(Vec::new());
    for (i, n) in [(0, 64), (2, 64), (4, 64), (6, 64), (8, 6)] {
        policy.add(
            &format!("{i}.weight"),
            &[n, 64],
            random(n * 64, if i == 8 { 4e-4 } else { 0.1 }, i as u64 + 1),
        );
        policy.add(&format!("{i}.bias"), &[n], vec![0.0; n]);
    }
    assert_healthy(&policy);
    let mut skip_gram = Network(Vec::new());
    skip_gram.add("in_embed.weight", &[500, 32], random(16_000, 0.02, 1));
    skip_gram.add("out_embed.weight", &[500, 32], vec![0.0; 16_000]);
    assert_eq!(skip_gram.judged().verdict, Some(Verdict::Untrained));
    skip_gram.get("in_embed.weight").fill(0.0);
    assert_eq!(skip_gram.judged().verdict, Some(Verdict::Dead));
}
