//! Rules that look at single values: flipped bits in every type and role, holes, whole numbers, codes.

use ckpt_inspect::{CheckpointRecord, Finding, OpenOptions, Options, Thresholds, Verdict};
use ckpt_inspect::{describe, judge, open_bytes_with};

use ckpt_kit::safetensors::SafeTensors;

use super::judge::{Network, UP, assert_found, assert_healthy, found, random};

const GAIN: &str = "model.layers.2.input_layernorm.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

fn f16(network: &Network) -> CheckpointRecord {
    network.judged_as("F16", |v| half::f16::from_f32(v).to_le_bytes())
}

/// `value` with a bit of its f16 flipped.
fn flipped(value: f32, bit: u16) -> f32 {
    half::f16::from_bits(half::f16::from_f32(value).to_bits() ^ (1 << bit)).to_f32()
}

#[test]
fn any_weight_of_f16_with_its_highest_bit_flipped_stands_apart() {
    for size in [0.2, 0.02, 0.002] {
        for name in [UP, EMBEDDING, "lm_head.weight"] {
            let mut network = Network::new();
            let far = flipped(size, 14);
            assert!((far / size - 65536.0).abs() < 100.0);
            network.get(name)[77] = far;
            assert_found(&f16(&network), name, Verdict::Corrupt, |f| matches!(f, Finding::FarValue { .. }));
        }
    }
    assert_eq!(f16(&Network::new()).verdict, Some(Verdict::Healthy));
    // A few that lead up to the largest, as language models have them.
    let mut outliers = Network::new();
    outliers.get(UP)[70..76].copy_from_slice(&[0.6, 1.2, 2.4, 4.8, 9.6, 19.2]);
    assert_eq!(f16(&outliers).verdict, Some(Verdict::Healthy));
}

#[test]
fn a_scale_of_a_block_that_was_flipped_makes_a_block_that_stands_apart() {
    let mut network = Network::new();
    network.get(UP)[1024..1056].iter_mut().for_each(|v| *v *= 65536.0);
    assert_found(&f16(&network), UP, Verdict::Corrupt, |f| matches!(f, Finding::FarValue { .. }));
}

#[test]
fn every_role_has_a_bound() {
    let bias = "model.layers.0.mlp.up_proj.bias";
    for (name, value, verdict) in [
        (bias, 2e37, Some(Verdict::Corrupt)),
        (bias, 1e6, None),
        // What people write for minus infinity.
        (bias, f32::MIN, None),
        (bias, -1e30, None),
        (GAIN, 3e38, Some(Verdict::Corrupt)),
        (GAIN, 163_840.0, Some(Verdict::Corrupt)),
        (GAIN, 300.0, None),
        ("stem.bn1.running_mean", 1e30, Some(Verdict::Corrupt)),
        ("model.latents", 7e24, Some(Verdict::Corrupt)),
    ] {
        let mut network = Network::new();
        if name != GAIN {
            network.add(name, &[64], random(64, 0.1, 9));
        }
        network.get(name)[5] = value;
        let record = network.judged();
        assert_eq!(found(&record, name).0, verdict, "{name} {value}");
        let is_bound = |f: &Finding| matches!(f, Finding::BeyondReason { .. });
        assert_eq!(found(&record, name).1.iter().any(is_bound), verdict.is_some(), "{name} {value}");
    }
    // In f16 a flipped bit is told by what it stands above.
    let mut network = Network::new();
    network.add(bias, &[64], random(64, 0.1, 9));
    network.get(bias)[5] = flipped(0.02, 14);
    assert_found(&f16(&network), bias, Verdict::Corrupt, |f| matches!(f, Finding::FarValue { .. }));
}

#[test]
fn whole_numbers_are_codes_unless_their_scale_is_there() {
    let codes = |network: &mut Network, most: f32| {
        network.get(UP).iter_mut().for_each(|v| *v = (*v / 0.3 * most).round());
    };
    for most in [127.0, 7.0] {
        let mut network = Network::new();
        codes(&mut network, most);
        assert_found(&network.judged(), UP, Verdict::Corrupt, |f| matches!(f, Finding::WholeNumbers { .. }));
        network.add("model.layers.2.mlp.up_proj.weight_scale", &[64, 1], vec![0.3 / most; 64]);
        assert!(!found(&network.judged(), UP).1.iter().any(|f| matches!(f, Finding::WholeNumbers { .. })));
    }
    let mut ternary = Network::new();
    codes(&mut ternary, 1.0);
    assert_healthy(&ternary);
}

#[test]
fn a_hole_that_cuts_a_row_is_told_in_tables_too() {
    for (name, start, run) in [(EMBEDDING, 1000, 2048), (UP, 1000, 512), ("lm_head.weight", 90, 140)] {
        let mut network = Network::new();
        network.get(name)[start..start + run].fill(0.0);
        assert_found(
            &network.judged(),
            name,
            Verdict::Dead,
            |f| matches!(f, Finding::ZeroHole { run: found, .. } if *found == run as u64),
        );
    }
    // Whole rows are padding, and a sparse matrix has runs by chance.
    let mut padded = Network::new();
    padded.get(EMBEDDING)[64 * 20..64 * 60].fill(0.0);
    padded.get(UP)[64 * 20..64 * 23].fill(0.0);
    assert_healthy(&padded);
}

#[test]
fn a_hole_in_a_learnt_table_of_positions_is_told_and_sines_are_none() {
    const TABLE: &str = "wpe.weight";
    let mut network = Network::new();
    network.add(TABLE, &[64, 64], random(64 * 64, 0.02, 77));
    assert_healthy(&network);
    network.get(TABLE)[1000..2100].fill(0.0);
    assert_found(&network.judged(), TABLE, Verdict::Dead, |f| {
        matches!(f, Finding::ZeroHole { run: 1100, .. })
    });
    // As masked autoencoders have it: nothing for the class, then sines and cosines of rows and columns.
    let mut sines = Network::new();
    let value = |at: usize| match (at / 64, at % 64) {
        (0, _) => 0.0,
        (patch, dim) => {
            let place = if dim < 32 { (patch - 1) / 7 } else { (patch - 1) % 7 } as f32;
            let angle = place / 10_000_f32.powf((dim % 16) as f32 / 16.0);
            if dim % 32 < 16 { angle.sin() } else { angle.cos() }
        }
    };
    sines.add("pos_embed", &[1, 50, 64], (0..50 * 64).map(value).collect());
    assert_healthy(&sines);
}

#[test]
fn a_mask_may_hold_infinity_and_not_nan() {
    let mut network = Network::new();
    let triangle = |above: f32| (0..64).map(|at| if at % 8 > at / 8 { above } else { 0.0 }).collect();
    network.add("attn_mask", &[8, 8], triangle(f32::NEG_INFINITY));
    network.add("noise.raw_noise_constraint.upper_bound", &[], vec![f32::INFINITY]);
    assert_healthy(&network);
    let mut spoilt = Network::new();
    spoilt.add("attn_mask", &[8, 8], triangle(f32::NAN));
    assert_found(&spoilt.judged(), "attn_mask", Verdict::Corrupt, |f| {
        matches!(f, Finding::NotFinite { nan: 28, .. })
    });
}

#[test]
fn a_stretch_of_one_value_is_a_hole_that_was_filled() {
    let mut network = Network::new();
    network.get(UP)[1000..1600].fill(-3e-2);
    assert_found(&network.judged(), UP, Verdict::Dead, |f| {
        matches!(f, Finding::ConstantHole { run: 600, .. })
    });
    let mut tokens = Network::new();
    tokens.get(EMBEDDING)[64 * 20..64 * 40].fill(0.01);
    assert_healthy(&tokens);
}

#[test]
fn codes_of_one_value_are_dead_whatever_their_scale() {
    let judged = |codes: &[u8]| {
        let header = serde_json::json!({
            "x.weight": {"dtype": "I8", "shape": [16, 32], "data_offsets": [0, 512]},
            "x.weight_scale": {"dtype": "F32", "shape": [16], "data_offsets": [512, 576]},
        });
        let header = serde_json::to_vec(&header).unwrap();
        let scales: Vec<u8> = (1..17).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, codes, &scales].concat();
        let checkpoint = open_bytes_with("made.safetensors", bytes, &OpenOptions::default()).unwrap();
        let mut record = describe(&checkpoint, Options::default(), &|_| ());
        judge(&mut record, &Thresholds::default());
        record
    };
    let dead = |f: &Finding| matches!(f, Finding::Constant { .. } | Finding::EqualCodes { .. });
    assert_found(&judged(&[0; 512]), "x.weight", Verdict::Dead, dead);
    assert_found(&judged(&[0x88; 512]), "x.weight", Verdict::Dead, dead);
    let several: Vec<u8> = (0..512).map(|i| (i * 37 % 251) as u8).collect();
    assert!(!found(&judged(&several), "x.weight").1.iter().any(dead));
}

#[test]
fn weights_of_one_bit_or_two_are_not_misread() {
    // A sign times a number a row, near 1 too.
    let mut binary = Network::new();
    for (row, values) in binary.get(UP).chunks_mut(64).enumerate() {
        values.iter_mut().for_each(|v| *v = v.signum() * (0.6 + row as f32 / 64.0));
    }
    assert_healthy(&binary);
    // Two bits a weight: a half or one and a half of a step.
    let mut two = Network::new();
    two.get(UP).iter_mut().for_each(|v| *v = v.signum() * if v.abs() > 0.1 { 0.15 } else { 0.05 });
    assert_healthy(&two);
}

#[test]
fn gains_whose_bytes_are_swapped_have_vanished() {
    let mut network = Network::new();
    network.get(GAIN).iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits().swap_bytes() & 0xffff));
    assert_found(&network.judged(), GAIN, Verdict::Dead, |f| *f == Finding::GainsAtZero);
}

/// Real and imaginary parts are measured alike; how large a transform's numbers are says nothing.
#[test]
fn complex_weights_are_judged_by_their_parts() {
    let judged = |dtype: &str, size: usize, change: &dyn Fn(&mut [f64])| {
        let mut values: Vec<f64> = random(2 * 64 * 32, 1e-5, 3).into_iter().map(f64::from).collect();
        change(&mut values);
        let bytes: Vec<u8> = match size {
            8 => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let file = SafeTensors::new().tensor("fourier.0.weights", dtype, &[64, 32], &bytes).bytes();
        let checkpoint = open_bytes_with("made.safetensors", file, &OpenOptions::default()).unwrap();
        let mut record = describe(&checkpoint, Options::default(), &|_| ());
        judge(&mut record, &Thresholds::default());
        assert!(record.coverage.is_whole(), "{}", record.coverage);
        found(&record, "fourier.0.weights")
    };
    let c64 = |change: &dyn Fn(&mut [f64])| judged("C64", 8, change);
    assert_eq!(c64(&|_| ()), (Some(Verdict::Healthy), vec![]));
    for part in [0, 4095] {
        let one = Finding::NotFinite { nan: 1, inf: 0, count: 4096 };
        assert_eq!(c64(&|v| v[part] = f64::NAN), (Some(Verdict::Corrupt), vec![one]));
        assert_eq!(c64(&|v| v[part] = f64::INFINITY).0, Some(Verdict::Corrupt));
        assert_eq!(c64(&|v| v[part] = 1e30).0, Some(Verdict::Corrupt));
    }
    assert_eq!(c64(&|v| v.fill(0.0)), (Some(Verdict::Dead), vec![Finding::Constant { value: 0.0 }]));
}
