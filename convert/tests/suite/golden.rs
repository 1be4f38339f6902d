//! The bytes of every block type: against what gguf-py (data/gguf_golden.py) and, for the K types, llama.cpp make of
//! the same values.

use ckpt_convert::quant::{Codes, Quant, encode, i2_s_tail};
use ckpt_inspect::ggml::GgmlType;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(ckpt_kit::fixtures::data("convert", name)).unwrap()
}

fn values() -> Vec<f32> {
    data("gguf_golden.f32").chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn encoded(quant: Quant, codes: Codes, values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(quant, codes, values, &mut out).unwrap();
    out
}

#[test]
fn bytes_are_those_of_gguf_py() {
    let (values, golden) = (values(), data("gguf_golden.bin"));
    let mut at = 4 * values.len(); // F16 and BF16 rows come first
    for quant in [Quant::Q8_0, Quant::Q4_0, Quant::Q4_1, Quant::Q5_0, Quant::Q5_1, Quant::Tq1_0, Quant::Tq2_0]
    {
        let ours = encoded(quant, Codes::ByBlock, &values);
        let theirs = &golden[at..at + ours.len()];
        let differs = ours.iter().zip(theirs).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{quant}: byte of block {:?}", differs.map(|i| i / quant.block_bytes()));
        at += ours.len();
    }
    let ternary = &values[512..1024];
    let whole = Codes::Whole { line: 0.0, scale: 0.0371 };
    let mut i2_s = encoded(Quant::I2S, whole, ternary);
    i2_s.extend(i2_s_tail(0.0371));
    assert_eq!(i2_s, golden[at..]);
}

/// Ternary rows have the same bytes whether each block finds its scale or all are told it.
#[test]
fn one_scale_for_all_blocks_gives_the_bytes_of_gguf_py() {
    let ternary = &values()[512..1024];
    for quant in [Quant::Tq1_0, Quant::Tq2_0] {
        let whole = encoded(quant, Codes::Whole { line: 0.0, scale: 0.0371 }, ternary);
        assert_eq!(whole, encoded(quant, Codes::ByBlock, ternary), "{quant}");
        let latent = encoded(quant, Codes::Whole { line: 0.02, scale: 0.0371 }, ternary);
        assert_eq!(whole, latent, "{quant}");
    }
}

/// Root mean square error of the K types and of the finer ones, in steps of a uniform grid over each block's range.
#[test]
fn k_blocks_are_as_near_as_their_bits_allow() {
    let values = &values()[..512];
    let power = (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / 512.0).sqrt();
    let mut last = f64::INFINITY;
    for (quant, most) in
        [(Quant::Q2K, 0.35), (Quant::Q3K, 0.2), (Quant::Q4K, 0.09), (Quant::Q5K, 0.05), (Quant::Q6K, 0.025)]
    {
        let bytes = encoded(quant, Codes::ByBlock, values);
        let mut back = vec![0.0; 512];
        quant.ggml().decoder(&bytes, 512).unwrap().read(0, &mut back);
        let error = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let error = (error / 512.0).sqrt() / power;
        assert!(error < most && error < last, "{quant}: {error}");
        last = error;
    }
    assert_eq!(encoded(Quant::Q6K, Codes::ByBlock, values).len(), 2 * GgmlType::Q6_K.block_bytes().unwrap());
}

/// The CRC-32s of what `quantize_row_q2_K_ref` to `quantize_row_q6_K_ref` of llama.cpp's `ggml-quants.c`, compiled with
/// `-ffp-contract=off`, make of the same values.
#[test]
fn k_blocks_have_the_bytes_of_llama_cpp() {
    let golden = [
        (Quant::Q2K, 1_043_589_278),
        (Quant::Q3K, 3_200_155_492),
        (Quant::Q4K, 2_727_370_028),
        (Quant::Q5K, 3_494_679_370),
        (Quant::Q6K, 1_631_262_504),
    ];
    let found = golden.map(|(q, _)| (q, crc32fast::hash(&encoded(q, Codes::ByBlock, &values()))));
    assert_eq!(found, golden);
}

#[test]
fn zeros_and_what_is_not_finite_are_encoded_without_harm() {
    for quant in Quant::all().filter(|q| q.is_packed()) {
        for value in [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 8.0, 3e38] {
            let bytes = encoded(quant, Codes::ByBlock, &[value; 256]);
            assert_eq!(bytes.len(), 256 / quant.block() * quant.block_bytes(), "{quant} {value}");
        }
    }
}
