//! The one reader of elements: pieces agree with the whole and f32 with f64, for every encoding; and what an encoder makes
//! of a block's elements is the block.

use std::fmt::Debug;
use std::sync::Arc;

use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::ggml::blocks::{
    Block, Encode, Pack, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TernaryBlock, Tq1_0, Tq2_0,
};
use ckpt_inspect::{Checkpoint, DType, Elements, Quantizer, TensorInfo, TernaryPacking, open};
use ckpt_kit::fixtures;
use proptest::prelude::*;

fn data(name: &str) -> Checkpoint {
    open(fixtures::data("inspect", name)).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // All that is not a number is alike.
    values.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// Reads `elements` whole and in two pieces, as f32 and as f64, and compares all of it.
#[track_caller]
fn assert_consistent(elements: &Elements<'_>, split: usize, what: &dyn Debug) {
    let len = elements.len();
    let whole = elements.to_f32();
    let mut wide = vec![0.0f64; len];
    elements.read_f64(0, &mut wide);
    let narrowed: Vec<f32> = wide.iter().map(|&x| x as f32).collect();
    assert_eq!(bits(&narrowed), bits(&whole), "{what:?}: f64 rounded");
    if !elements.is_wide() {
        let exact = wide.iter().zip(&whole).all(|(&x, &y)| x == f64::from(y) || (x.is_nan() && y.is_nan()));
        assert!(exact, "{what:?}: f32 holds them exactly");
    }
    let split = split % (len + 1);
    let (mut single, mut double) = (vec![7.0f32; len], vec![7.0f64; len]);
    for range in [0..split, split..len] {
        elements.read_f32(range.start, &mut single[range.clone()]);
        elements.read_f64(range.start, &mut double[range]);
    }
    assert_eq!(bits(&single), bits(&whole), "{what:?} cut at {split}");
    assert!(double.iter().zip(&wide).all(|(x, y)| x == y || (x.is_nan() && y.is_nan())), "{what:?}");
    let mut buffer = vec![0.0; len - split];
    assert_eq!(bits(elements.block(split, &mut buffer)), bits(&whole[split..]), "{what:?}");
    if let Some(ready) = elements.as_f32() {
        assert_eq!(bits(ready), bits(&whole), "{what:?}");
    }
}

/// A tensor of `dtype` and some shape that its blocks fill.
fn tensor(like: &TensorInfo, dtype: DType) -> TensorInfo {
    let mut tensor = like.clone();
    (tensor.dtype, tensor.shape, tensor.scale, tensor.sparse) = (dtype, vec![8, 256], None, None);
    tensor.strides = ckpt_inspect::contiguous_strides(&tensor.shape);
    tensor
}

/// Every type whose elements are decoded.
fn decoded() -> Vec<DType> {
    use DType::*;
    let plain = [
        F64, F32, F16, BF16, F8E4M3FN, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ, F8E8M0FNU, I64, I32, I16, I8, U64,
        U32, U16, U8, Bool, C32, C64, C128, QI8, QU8, QI32,
    ];
    let blocks = (0..64).map(GgmlType).filter(|ggml| ggml.decodes()).map(Ggml);
    plain.into_iter().chain(blocks).chain(TernaryPacking::ALL.iter().map(|&p| Ternary(p))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_agree_with_the_whole(
        noise in prop::collection::vec(any::<u8>(), 8 * 256 * 16),
        split in any::<usize>(),
        scale in prop::sample::select(vec![None, Some(0.5f32), Some(-3.0)]),
    ) {
        let checkpoint = data("every_type.gguf");
        for dtype in decoded() {
            let mut tensor = tensor(&checkpoint.tensors[0], dtype);
            tensor.scale = scale.filter(|_| dtype.element_size().is_none());
            if matches!(dtype, DType::QI8 | DType::QU8 | DType::QI32) {
                tensor.quantizer = Some(Quantizer::PerTensor { scale: 0.0625, zero_point: -3 });
            }
            let len = tensor.byte_len().unwrap() as usize;
            let elements = checkpoint.elements_in(&tensor, &noise[..len]).unwrap();
            let parts = if dtype.is_complex() { 2 } else { 1 };
            prop_assert_eq!(elements.len(), parts * 8 * 256);
            assert_consistent(&elements, split, &dtype);
            prop_assert!(checkpoint.elements_in(&tensor, &noise[..len - 1]).is_err(), "{}", dtype);

            // Rows in another order are those rows.
            let whole = elements.to_f32();
            let cols = parts * 256;
            let turned = elements.clone().with_rows(cols, Arc::new(|row| 7 - row));
            assert_consistent(&turned, split, &dtype);
            for (row, values) in turned.to_f32().chunks(cols).enumerate() {
                prop_assert_eq!(bits(values), bits(&whole[(7 - row) * cols..][..cols]), "{}", dtype);
            }

            // Codes are signs, whatever the scale.
            if let (DType::Ternary(_), Ok(Some(codes))) = (dtype, elements.codes()) {
                let unscaled = elements.unscaled().to_f32();
                prop_assert!(codes.iter().zip(unscaled).all(|(&c, x)| f32::from(c) == x), "{}", dtype);
            }
        }
    }

    #[test]
    fn blocks_are_what_their_elements_encode_to(
        values in prop::collection::vec(-1.0f32..1.0, 256),
        exponent in -6i32..6,
        codes in prop::collection::vec(0u8..3, 256),
    ) {
        fn settled<const N: usize, B: Block<N> + Encode<N>>(values: &[f32]) -> Result<(), TestCaseError> {
            for values in values.as_chunks::<N>().0 {
                let (mut back, mut again) = ([0.0; N], [0.0; N]);
                let block = B::encode(values);
                block.decode(&mut back);
                let second = B::encode(&back);
                second.decode(&mut again);
                prop_assert_eq!(bits(&back), bits(&again));
                prop_assert_eq!(bytemuck::bytes_of(&block), bytemuck::bytes_of(&second));
            }
            Ok(())
        }
        fn packed<B: TernaryBlock + Pack<256>>(codes: &[u8; 256]) -> Result<(), TestCaseError> {
            let block = B::pack(codes, 0.5);
            let mut back = [0; 256];
            block.codes(&mut back);
            prop_assert!(back.iter().zip(codes).all(|(&x, &code)| x + 1 == code as i8));
            let again = B::pack(&back.map(|x| (x + 1) as u8), 0.5);
            prop_assert_eq!(bytemuck::bytes_of(&block), bytemuck::bytes_of(&again));
            let mut values = [0.0; 256];
            block.decode(&mut values);
            prop_assert!(values.iter().zip(back).all(|(&v, x)| v == 0.5 * f32::from(x)));
            prop_assert!(bytemuck::bytes_of(&block) != bytemuck::bytes_of(&B::zeroed()));
            Ok(())
        }
        let values: Vec<f32> = values.iter().map(|x| x * 2f32.powi(exponent)).collect();
        settled::<32, Q8_0>(&values)?;
        settled::<32, Q4_0>(&values)?;
        settled::<32, Q4_1>(&values)?;
        settled::<32, Q5_0>(&values)?;
        settled::<32, Q5_1>(&values)?;
        let codes: &[u8; 256] = codes[..].try_into().unwrap();
        packed::<Tq1_0>(codes)?;
        packed::<Tq2_0>(codes)?;
    }
}

/// Strided, swapped, deflated, quantized by channel: whatever the files hold.
#[test]
fn tensors_of_every_make_agree() {
    let mut read = 0;
    for name in ["objects-p2.pt", "special.pt", "big_endian.gguf", "every_type.gguf", "arrays-p5.pkl"] {
        let checkpoint = data(name);
        for tensor in &checkpoint.tensors {
            let Ok(elements) = checkpoint.elements(tensor) else { continue };
            for split in [0, 1, 7, elements.len() / 2] {
                assert_consistent(&elements, split, &tensor.name);
            }
            if !tensor.dtype.is_complex() {
                assert_eq!(
                    bits(&checkpoint.values(tensor).unwrap()),
                    bits(&elements.to_f32()),
                    "{}",
                    tensor.name
                );
            }
            read += 1;
        }
    }
    assert!(read > 40, "{read} tensors");
}

#[test]
fn what_lies_ready_is_borrowed() {
    let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let elements = Elements::from(&values[..]);
    assert_eq!(elements.as_f32().unwrap().as_ptr(), values.as_ptr());
    let bytes = [&[0u8][..], bytemuck::cast_slice(&values)].concat();
    let shifted = Elements::plain(DType::F32, &bytes[1..]).unwrap();
    assert_eq!(shifted.to_f32(), values);
    assert!(Elements::plain(DType::QI8, &bytes[..]).is_err());
    assert!(Elements::plain(DType::C64, &bytes[..8]).unwrap().real().is_err());
}
