//! GGUF's blocks whose codes say nothing, and the factors that stand beside them.

use ckpt_inspect::quantized::QuantFault;
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::{Checkpoint, DamageKind, Finding, Group, Verdict, describe, judge, open_bytes};
use ckpt_kit::gguf::Gguf;
use ckpt_kit::random::Random;

const ROWS: usize = 32;
const COLS: usize = 1024;
const NAME: &str = "blk.0.ffn_up.weight";

/// A type of GGML: its number, the bytes and elements of a block, and where in it f16 scales are.
struct Type {
    ggml: u32,
    size: usize,
    elements: usize,
    scales: &'static [usize],
}

const TYPES: [Type; 10] = [
    Type { ggml: 2, size: 18, elements: 32, scales: &[0] },
    Type { ggml: 3, size: 20, elements: 32, scales: &[0, 2] },
    Type { ggml: 6, size: 22, elements: 32, scales: &[0] },
    Type { ggml: 7, size: 24, elements: 32, scales: &[0, 2] },
    Type { ggml: 11, size: 110, elements: 256, scales: &[108] },
    Type { ggml: 21, size: 110, elements: 256, scales: &[0] },
    Type { ggml: 20, size: 18, elements: 32, scales: &[0] },
    Type { ggml: 12, size: 144, elements: 256, scales: &[0, 2] },
    Type { ggml: 34, size: 54, elements: 256, scales: &[52] },
    Type { ggml: 35, size: 66, elements: 256, scales: &[64] },
];

/// Blocks of random codes with scales around 0.01.
fn blocks(of: &Type) -> Vec<u8> {
    let mut random = Random::new(u64::from(of.ggml));
    let mut bytes: Vec<u8> = (0..ROWS * COLS / of.elements * of.size)
        .map(|_| match of.ggml {
            // No code 3 in TQ2_0, and only what TQ1_0 writes of five codes: ceil(n * 256 / 243).
            35 => (0..4).fold(0, |byte, _| byte << 2 | random.below(3) as u8),
            34 => (random.below(243) * 256).div_ceil(243) as u8,
            _ => random.bits() as u8,
        })
        .collect();
    for block in bytes.chunks_mut(of.size) {
        for &at in of.scales {
            block[at..at + 2].copy_from_slice(&[random.bits() as u8, 0x20]);
        }
    }
    bytes
}

fn judged(file: &Gguf) -> (Checkpoint, CheckpointRecord) {
    let checkpoint = open_bytes("model.gguf", file.bytes()).unwrap();
    let mut record = describe(&checkpoint, Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    (checkpoint, record)
}

/// The verdict on a matrix of these blocks, and the share of those that are flat where that is what it is about.
fn verdict(of: &Type, bytes: &[u8]) -> (Option<Verdict>, Option<f64>) {
    let (_, record) = judged(&Gguf::new().tensor(NAME, &[COLS as u64, ROWS as u64], of.ggml, bytes.to_vec()));
    let tensor = &record.tensors[0];
    let flat = tensor.finding.as_deref().into_iter().chain(&tensor.also).find_map(|f| match f {
        Finding::FlatBlocks { share } => Some(*share),
        _ => None,
    });
    (tensor.verdict, flat)
}

#[test]
fn blocks_whose_codes_are_all_the_same_are_no_matrix() {
    for of in &TYPES {
        let good = blocks(of);
        assert_eq!(verdict(of, &good), (Some(Verdict::Healthy), None), "{}", of.ggml);
        let scales_alone = |fill: u8, of_every: usize| {
            let mut bytes = good.clone();
            for block in bytes.chunks_mut(of.size).step_by(of_every) {
                let kept: Vec<[u8; 2]> = of.scales.iter().map(|&at| [block[at], block[at + 1]]).collect();
                block.fill(fill);
                of.scales.iter().zip(kept).for_each(|(&at, kept)| block[at..at + 2].copy_from_slice(&kept));
            }
            verdict(of, &bytes)
        };
        // Four or five codes of a byte of the ternary types are the same in these alone.
        for fill in [0x00, 0xff, 0x55, 0x1b] {
            // Six-bit scales are zero then, and with them what is in a block; or codes are zero, or differ in a byte.
            if matches!(
                (of.ggml, fill),
                (12, 0x00) | (11 | 21, 0x1b) | (34, 0x55 | 0x1b) | (35, 0x55 | 0x1b | 0xff)
            ) {
                continue;
            }
            for (of_every, share) in [(1, 1.0), (2, 0.5)] {
                let (verdict, flat) = scales_alone(fill, of_every);
                // Some of the others are so by chance.
                let flat = flat.unwrap();
                assert!((share..share + 0.02).contains(&flat), "{} {fill}: {flat}", of.ggml);
                // Some are too large besides.
                assert!(matches!(verdict, Some(Verdict::Dead | Verdict::Corrupt)), "{} {fill}", of.ggml);
            }
            assert_eq!(scales_alone(fill, 8).1, None, "{} {fill}", of.ggml);
        }
    }
}

#[test]
fn codes_of_few_values_and_blocks_of_zeros_are_a_matrix() {
    let ternary = &TYPES[9];
    let mut random = Random::new(3);
    // A value other than zero in a hundred, and no zero at all.
    for (zeros, zero) in [(99, 1u8), (0, 1)] {
        let mut bytes = blocks(ternary);
        for byte in bytes.chunks_mut(66).flat_map(|block| &mut block[..64]) {
            *byte = (0..4).fold(0, |byte, _| {
                let code = if random.below(100) < zeros { zero } else { 2 * random.below(2) as u8 };
                byte << 2 | code
            });
        }
        assert_eq!(verdict(ternary, &bytes).1, None, "{zeros}");
    }
    // Nineteen of twenty are zero, which Q4_1 stores as a multiple of its scale above its minimum.
    let pruned = &TYPES[1];
    let mut bytes = blocks(pruned);
    for block in bytes.chunks_mut(20) {
        block[..4].copy_from_slice(&[0x00, 0x24, 0x00, 0xac]);
        block[4..].fill(0x44);
        if random.below(5) > 0 {
            block[4 + random.below(16)] = 0x4f;
        }
    }
    assert_eq!(verdict(pruned, &bytes).1, None);
}

#[test]
fn the_fourth_code_of_two_bits_is_no_ternary_value() {
    let of = &TYPES[9];
    let mut bytes = blocks(of);
    // Byte 40 of the third block has elements 136, 168, 200 and 232 of it.
    bytes[2 * of.size + 40] |= 0b0011_0000;
    let file = Gguf::new().tensor(NAME, &[COLS as u64, ROWS as u64], of.ggml, bytes);
    let (checkpoint, record) = judged(&file);
    let tensor = &record.tensors[0];
    assert_eq!((tensor.verdict, tensor.damage_kind), (Some(Verdict::Corrupt), Some(DamageKind::UnknownCode)));
    let said = tensor.damage.as_deref().unwrap();
    assert!(said.contains("element 712 is the code 3"), "{said}");
    assert!(record.damaged && tensor.ternary.is_none());
    assert!(checkpoint.values(&checkpoint.tensors[0]).is_err());
}

fn factors(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn factors_that_cannot_be_those_of_their_blocks_are_found() {
    let of = &TYPES[0];
    let beside = |shape: &[u64], name: &str, values: &[f32]| {
        let file = Gguf::new().tensor(NAME, shape, of.ggml, blocks(of));
        let (checkpoint, record) = judged(&file.tensor(name, &[values.len() as u64], 0, factors(values)));
        let faults = checkpoint.coding.faults.clone();
        let found = record.tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!(found.verdict, (!faults.is_empty()).then_some(Verdict::Corrupt), "{faults:?}");
        assert_eq!(checkpoint.coding.refusal().is_some(), !faults.is_empty());
        let scale = checkpoint.tensor(NAME).unwrap();
        (faults.into_iter().map(|(_, fault)| fault).collect::<Vec<_>>(), scale.scale, found.group)
    };
    let (whole, experts) = ([1024, 32], [1024, 8, 4]);
    let own = "blk.0.ffn_up.scale";
    assert_eq!(beside(&whole, own, &[2.0]), (vec![], Some(2.0), Group::Other));
    assert_eq!(beside(&experts, own, &[1.0, 2.0, 3.0, 4.0]).0, []);
    let part = own.to_string();
    assert_eq!(beside(&whole, own, &[-2.0]).0, [QuantFault::Negative { part: part.clone() }]);
    assert_eq!(
        beside(&experts, own, &[1.0, 2.0, -3.0, 4.0]).0,
        [QuantFault::Negative { part: part.clone() }]
    );
    let misfit =
        |codes: &[u64]| QuantFault::Shape { part: part.clone(), found: vec![2], codes: codes.to_vec() };
    assert_eq!(beside(&whole, own, &[1.0, 2.0]).0, [misfit(&[32, 1024])]);
    assert_eq!(beside(&experts, own, &[1.0, 2.0]).0, [misfit(&[4, 8, 1024])]);
    assert_eq!(beside(&whole, "blk.1.ffn_up.scale", &[2.0]).0, [QuantFault::Orphaned]);
    // Other networks call norms so.
    assert_eq!(beside(&whole, "blk.1.norm.scale", &[2.0; 64]).0, []);
    assert_eq!(beside(&whole, "double_blocks.0.img_attn.norm.scale", &[2.0]).0, []);
}

#[test]
fn one_block_with_a_scale_far_too_large_is_found_in_six_bits_too() {
    const SIZE: usize = 210;
    let mut random = Random::new(8);
    let mut bytes: Vec<u8> = (0..ROWS * COLS / 256 * SIZE).map(|_| random.bits() as u8).collect();
    // 2^-14, so that scales of 20 to 127 leave four octaves empty beneath a block that is 4000 times as large.
    let scale = half::f16::from_bits(0x0400);
    for block in bytes.chunks_mut(SIZE) {
        block[192..208].fill_with(|| 20 + random.below(108) as u8);
        block[208..].copy_from_slice(&scale.to_le_bytes());
    }
    let judged_with = |factor: f32| {
        let mut bytes = bytes.clone();
        let far = half::f16::from_f32(scale.to_f32() * factor);
        bytes[5 * SIZE + 208..6 * SIZE].copy_from_slice(&far.to_le_bytes());
        let (_, record) = judged(&Gguf::new().tensor(NAME, &[COLS as u64, ROWS as u64], 14, bytes));
        (record.tensors[0].verdict, record.tensors[0].finding.clone())
    };
    assert_eq!(judged_with(1.0).0, Some(Verdict::Healthy));
    assert_eq!(judged_with(30.0).0, Some(Verdict::Healthy));
    let (verdict, finding) = judged_with(4000.0);
    assert_eq!(verdict, Some(Verdict::Corrupt), "{finding:?}");
    assert!(matches!(finding.as_deref(), Some(Finding::FarValue { .. })), "{finding:?}");
}

#[test]
fn scales_that_no_encoder_writes_are_found() {
    let [q8, q4, q4k] = [
        Type { ggml: 8, size: 34, elements: 32, scales: &[0] },
        Type { ggml: 2, size: 18, elements: 32, scales: &[0] },
        Type { ggml: 12, size: 144, elements: 256, scales: &[0, 2] },
    ];
    let counts = |of: &Type, bytes: &[u8]| {
        let file = Gguf::new().tensor(NAME, &[COLS as u64, ROWS as u64], of.ggml, bytes.to_vec());
        let (_, record) = judged(&file);
        let findings = record.tensors[0].finding.as_deref().into_iter().chain(&record.tensors[0].also);
        findings.clone().find_map(|finding| match finding {
            Finding::QuantScales { zero, negative, .. } => Some((*zero, *negative)),
            _ => None,
        })
    };
    for of in [&q8, &q4, &q4k] {
        let good = blocks(of);
        assert_eq!(counts(of, &good), None, "{}", of.ggml);
        let every = 10;
        let mut lost = good.clone();
        for block in lost.chunks_mut(of.size).step_by(every) {
            of.scales.iter().for_each(|&at| block[at..at + 2].fill(0));
        }
        let all = (ROWS * COLS / of.elements).div_ceil(every) as u64;
        assert_eq!(counts(of, &lost), Some((all, 0)), "{}", of.ggml);
        let mut turned = good.clone();
        turned.chunks_mut(of.size).step_by(every).for_each(|block| block[1] |= 0x80);
        let negative = (of.ggml == 8).then_some((0, all));
        assert_eq!(counts(of, &turned), negative, "{}", of.ggml);
    }
    // Blocks of zeros have no scale.
    let mut zeros = blocks(&q8);
    zeros.chunks_mut(34).step_by(10).for_each(|block| block.fill(0));
    assert_eq!(counts(&q8, &zeros), None);
}

#[test]
fn one_byte_over_a_part_of_a_matrix_is_found_whatever_it_means() {
    for of in &TYPES {
        let good = blocks(of);
        let blocks = good.len() / of.size;
        for fill in [0x11u8, 0x33, 0x80, 0xa5] {
            // Five zeros of the ternary type.
            if (of.ggml, fill) == (34, 0x80) {
                continue;
            }
            let mut bytes = good.clone();
            bytes[blocks / 4 * of.size..blocks / 2 * of.size].fill(fill);
            let verdict = verdict(of, &bytes).0;
            assert!(verdict.is_some_and(|v| v > Verdict::Untrained), "{} {fill:x}: {verdict:?}", of.ggml);
        }
    }
}
