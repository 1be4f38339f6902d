//! Instances of subclasses of PyTorch's tensors in pickles: read where their class is, and never taken for what they wrap
//! where it is not.

use std::path::Path;

use ckpt_inspect::quantized::QuantFault;
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::{Checkpoint, DType, Group, Verdict, describe, judge, open};
use ckpt_kit::numbers::le;
use ckpt_kit::peers;
use ckpt_kit::pickle::{call, dict, global, int, persistent, pickle, sizes, text, tuple};
use ckpt_kit::random::Random;
use ckpt_kit::torch::{rebuild, zip_of};

const AFFINE: (&str, &str) = ("torchao.dtypes.affine_quantized_tensor", "AffineQuantizedTensor");
const PLAIN: (&str, &str) = ("torchao.dtypes.uintx.plain_layout", "PlainAQTTensorImpl");
const ROUNDING: (&str, &str) =
    ("torchao.quantization.linear_activation_quantized_tensor", "LinearActivationQuantizedTensor");

/// An instance of `class` that wraps what `state` has, as PyTorch's `_reduce_ex_internal` writes it.
fn instance(
    (module, class): (&str, &str),
    (dtype, shape): (&str, &[usize]),
    state: &[(&str, Vec<u8>)],
) -> Vec<u8> {
    let strides: Vec<usize> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
    let layout = call(&global("torch.serialization", "_get_layout"), &[text("torch.strided")]);
    let device = call(&global("torch", "device"), &[text("cpu")]);
    let class = global(module, class);
    let wrapper =
        [class.clone(), global("torch", dtype), sizes(shape), sizes(&strides), int(0), layout, device];
    let wrapper = tuple(&[&wrapper[..], &[b"\x89".to_vec()]].concat());
    let rebuild = global("torch._utils", "_rebuild_wrapper_subclass");
    call(&global("torch._tensor", "_rebuild_from_type_v2"), &[rebuild, class, wrapper, dict(state)])
}

/// What a file of `entries` and these storages holds.
fn opened(entries: &[(&str, Vec<u8>)], storages: &[Vec<u8>]) -> (Checkpoint, CheckpointRecord) {
    opened_root(&dict(entries), storages)
}

fn opened_root(root: &[u8], storages: &[Vec<u8>]) -> (Checkpoint, CheckpointRecord) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    std::fs::write(&path, zip_of(&pickle(2, root), storages)).unwrap();
    let checkpoint = open(&path).unwrap();
    let mut record = describe(&checkpoint, Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    (checkpoint, record)
}

fn noise(n: usize) -> Vec<u8> {
    let mut random = Random::new(5);
    (0..n).map(|_| random.bits() as u8).collect()
}

/// Codes of 16 rows and 64 columns, scales of groups of 32, and zero points of these, on storages 0 to 2.
fn storages() -> [Vec<u8>; 3] {
    let scales: [f32; 32] = std::array::from_fn(|i| 0.01 + 0.001 * i as f32);
    let zeros: [i64; 32] = std::array::from_fn(|i| i as i64 % 5 - 2);
    [noise(1024), le(&scales), le(&zeros)]
}

/// Element `at` of a matrix of 64 columns by torchao's `dequantize_affine`: (code - zero point) * scale.
fn element(codes: &[u8], at: usize) -> f32 {
    let group = at / 32;
    let zero = (group % 5) as i32 - 2;
    (i32::from(codes[at] as i8) - zero) as f32 * (0.01 + 0.001 * group as f32)
}

fn grouped(count: usize) -> [(&'static str, Vec<u8>); 2] {
    let shape = [16, count / 16];
    let strides = [count / 16, 1];
    [
        ("scale", rebuild("FloatStorage", "1", count, 0, &shape, &strides)),
        ("zero_point", rebuild("LongStorage", "2", count, 0, &shape, &strides)),
    ]
}

/// An AffineQuantizedTensor of blocks of `block`, with zero points of the domain of this number.
fn affine(layout: (&str, &str), block: &[usize], domain: i32) -> Vec<u8> {
    let [scale, zero] = grouped(32);
    let codes = ("int_data", rebuild("CharStorage", "0", 1024, 0, &[16, 64], &[64, 1]));
    let inner = instance(layout, ("int8", &[16, 64]), &[codes, scale, zero]);
    let domain = call(&global("torchao.quantization.quant_primitives", "ZeroPointDomain"), &[int(domain)]);
    let state = [("tensor_impl", inner), ("block_size", sizes(block)), ("zero_point_domain", domain)];
    instance(AFFINE, ("float32", &[16, 64]), &state)
}

fn class_of(fault: &QuantFault) -> &str {
    match fault {
        QuantFault::Class { class } => class,
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_layouts_are_read_within_what_rounds_activations_too() {
    let whole = affine(PLAIN, &[1, 32], 1);
    let rounding = instance(ROUNDING, ("float32", &[16, 64]), &[("original_weight_tensor", whole.clone())]);
    for (weight, name) in [(&whole, "a.weight"), (&rounding, "a.weight")] {
        let storages = storages();
        let (checkpoint, record) = opened(&[(name, weight.clone())], &storages);
        let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!((names, &checkpoint.coding.faults[..]), (vec![name], &[][..]));
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(
            (tensor.dtype.to_string().as_str(), &tensor.shape[..]),
            ("torchao int8 g32", &[16, 64][..])
        );
        let right: Vec<f32> = (0..1024).map(|at| element(&storages[0], at)).collect();
        assert_eq!(checkpoint.values(tensor).unwrap(), right);
        assert_eq!(record.tensors[0].verdict, Some(Verdict::Healthy));
    }
    // The only thing in a file, which has no name.
    let (checkpoint, _) = opened_root(&whole, &storages());
    assert_eq!(
        (checkpoint.tensors.len(), checkpoint.coding.faults.len()),
        (1, 0),
        "{:?}",
        checkpoint.tensors
    );
}

#[test]
fn blocks_are_those_that_an_instance_says() {
    let (checkpoint, _) = opened(&[("w", affine(PLAIN, &[1, 64], 1))], &storages());
    let [(name, fault)] = &checkpoint.coding.faults[..] else { panic!("{:?}", checkpoint.coding.faults) };
    assert!(matches!(fault, QuantFault::Configured { .. }), "{fault:?}");
    assert_eq!(name, "w.tensor_impl.int_data");
    // As many numbers, along other dimensions.
    let (checkpoint, _) = opened(&[("w", affine(PLAIN, &[2, 16], 1))], &storages());
    assert!(matches!(checkpoint.coding.faults[..], [(_, QuantFault::Configured { .. })]));
}

#[test]
fn instances_of_classes_that_are_not_read_are_no_weights() {
    let tiled = ("torchao.dtypes.uintx.tensor_core_tiled_layout", "TensorCoreTiledAQTTensorImpl");
    let codes = || rebuild("CharStorage", "0", 1024, 0, &[16, 64], &[64, 1]);
    let [scale, zero] = grouped(32);
    let four = ("torchao.quantization.quantize_.workflows.nf4.nf4_tensor", "NF4Tensor");
    for (weight, class) in [
        (affine(tiled, &[1, 32], 1), "AffineQuantizedTensor of TensorCoreTiledAQTTensorImpl"),
        // Zero points that are values.
        (affine(PLAIN, &[1, 32], 2), "AffineQuantizedTensor of PlainAQTTensorImpl"),
        (instance(four, ("float32", &[16, 64]), &[("quantized_data", codes())]), "NF4Tensor"),
        (
            instance(
                ("torchao.quantization", "Int4Tensor"),
                ("float32", &[16, 128]),
                &[("qdata", codes()), scale.clone(), zero.clone()],
            ),
            "Int4Tensor",
        ),
        (
            instance(
                ("quanto.tensor", "Int8Tensor"),
                ("float32", &[16, 64]),
                &[("qdata", codes()), scale, zero],
            ),
            "Int8Tensor",
        ),
    ] {
        let (checkpoint, record) = opened(&[("a.weight", weight)], &storages());
        let [(_, fault)] = &checkpoint.coding.faults[..] else { panic!("{:?}", checkpoint.coding.faults) };
        assert_eq!(class_of(fault), class);
        assert!(checkpoint.coding.refusal().unwrap().contains(class));
        assert_eq!(record.coverage.judged, 0, "{class}");
        assert!(record.tensors.iter().all(|t| t.verdict.is_none()), "{class}");
    }
}

#[test]
fn a_tensor_on_storage_of_an_unknown_type_is_named_and_its_scales_are_none() {
    let parts = |scheme: &str| {
        let scales = rebuild("FloatStorage", "1", 16, 0, &[16], &[1]);
        let zeros = rebuild("FloatStorage", "1", 16, 16, &[16], &[1]);
        tuple(&[global("torch", scheme), scales, zeros, int(0)])
    };
    let of = |class: &str| {
        let storage = [text("storage"), global("torch", class), text("0"), text("cpu"), int(1024)];
        let storage = persistent(&tuple(&storage));
        let quantizer = parts("per_channel_affine_float_qparams");
        let arguments = [storage, int(0), sizes(&[16, 64]), sizes(&[64, 1]), quantizer];
        let rest = [b"\x89".to_vec(), call(&global("collections", "OrderedDict"), &[])];
        call(&global("torch._utils", "_rebuild_qtensor"), &[&arguments[..], &rest].concat())
    };
    let (checkpoint, record) = opened(&[("w", of("QUInt4x2Storage"))], &storages());
    let [(name, QuantFault::Class { class })] = &checkpoint.coding.faults[..] else {
        panic!("{:?}", checkpoint.coding.faults)
    };
    assert_eq!((name.as_str(), class.as_str()), ("w", "QUInt4x2Storage"));
    let others = checkpoint.tensors.iter().filter(|t| t.name != "w");
    assert!(others.clone().count() == 2 && others.clone().all(|t| t.group == Group::Other));
    assert!(checkpoint.coding.refusal().unwrap().contains("QUInt4x2Storage"));
    assert_eq!((record.coverage.judged, record.coverage.matrices), (0, 1), "{:?}", record.coverage);
    // One that is known is read.
    let (checkpoint, _) = opened(&[("w", of("QInt8Storage"))], &storages());
    assert!(checkpoint.coding.faults.is_empty() && checkpoint.tensors.len() == 1);
}

#[test]
fn an_instance_that_computes_otherwise_is_the_weight_that_it_wraps() {
    let class = ("torchao.float8.fsdp_utils", "WeightWithDynamicFloat8CastTensor");
    let own = || rebuild("FloatStorage", "1", 32, 0, &[4, 8], &[8, 1]);
    let weight = |class| instance(class, ("float32", &[4, 8]), &[("_tensor", own())]);
    let (checkpoint, _) = opened(&[("a.weight", weight(class))], &storages());
    assert!(checkpoint.coding.refusal().is_none());
    let [tensor] = &checkpoint.tensors[..] else { panic!("{:?}", checkpoint.tensors) };
    assert_eq!((tensor.name.as_str(), tensor.dtype, tensor.group), ("a.weight", DType::F32, Group::Weights));
    assert_eq!(le(&checkpoint.values(tensor).unwrap()), storages()[1]);
    // Of any other class nobody knows that.
    let (checkpoint, _) = opened(&[("a.weight", weight(("mine", "Scaled")))], &storages());
    assert_eq!(class_of(&checkpoint.coding.faults[0].1), "Scaled");
}

#[test]
fn codes_may_be_a_part_of_their_storage_in_any_order() {
    let class = ("torchao.quantization", "Int8Tensor");
    // The transposed matrix, and columns 16 to 48 of it.
    for (shape, strides, offset, block, groups) in [
        ([64, 16], [1, 64], 0, [32, 1], ([2, 16], [1, 2])),
        ([16, 32], [64, 1], 32, [1, 32], ([16, 1], [2, 1])),
    ] {
        let first = offset / 32;
        let of = |class, key| rebuild(class, key, 32, first, &groups.0, &groups.1);
        let codes = rebuild("CharStorage", "0", 1024, offset, &shape, &strides);
        let state = [
            ("qdata", codes),
            ("scale", of("FloatStorage", "1")),
            ("zero_point", of("LongStorage", "2")),
            ("block_size", sizes(&block)),
        ];
        let storages = storages();
        let (checkpoint, _) = opened(&[("w", instance(class, ("float32", &shape), &state))], &storages);
        assert_eq!(checkpoint.coding.faults, []);
        let tensor = checkpoint.tensor("w").unwrap();
        let place = |at: usize| offset + at / shape[1] * strides[0] + at % shape[1] * strides[1];
        let right: Vec<f32> = (0..shape[0] * shape[1]).map(|at| element(&storages[0], place(at))).collect();
        assert_eq!(checkpoint.values(tensor).unwrap(), right, "{shape:?}");
    }
}

/// With `CKPT_TORCHAO_AFFINE` naming a folder that has torchao 0.9 (`pip install --target`), which still made them.
#[test]
fn affine_tensors_are_those_that_torchao_reads() {
    let Some(torchao) = std::env::var_os("CKPT_TORCHAO_AFFINE") else { return };
    let Some(python) = peers::python(&["torch", "safetensors"]) else { return };
    let made = tempfile::tempdir().unwrap();
    let arguments = [made.path(), Path::new(&torchao)];
    let cases = peers::json(&python.script("inspect", "quantized_affine.py", &arguments));
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let checkpoint = open(made.path().join(format!("{name}.pt"))).unwrap();
        if let Some(class) = case["refused"].as_str() {
            assert!(checkpoint.coding.refusal().unwrap().contains(class), "{name}");
            continue;
        }
        assert_eq!(checkpoint.coding.faults, [], "{name}");
        let truth = open(made.path().join(format!("{name}.truth.safetensors"))).unwrap();
        for wanted in &truth.tensors {
            let tensor = checkpoint.tensor(&wanted.name).unwrap();
            assert_eq!(tensor.shape, wanted.shape, "{name}");
            assert_eq!(tensor.dtype.to_string(), case["dtype"].as_str().unwrap(), "{name}");
            let (values, right) = (checkpoint.values(tensor).unwrap(), truth.values(wanted).unwrap());
            let largest = right.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (x, y) in values.iter().zip(&right) {
                assert!((x - y).abs() <= largest * 1e-6, "{name}: {x} is not {y}");
            }
        }
    }
    assert!(cases.as_array().unwrap().len() >= 8, "{cases}");
}
