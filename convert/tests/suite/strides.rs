//! Tensors of any type, shape and strides, sharing storages as they like: through PyTorch's format, SafeTensors and
//! GGUF, every element stays what and where it was.

use ckpt_convert::{Blob, Content, Control, Gguf, Options, Output, Plan, Target, verify_written, write};
use ckpt_inspect::metadata::Value;
use ckpt_inspect::{DType, contiguous_strides, open};
use proptest::prelude::*;

const DTYPES: [DType; 14] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3FN,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U16,
    DType::U8,
    DType::Bool,
    DType::C64,
    DType::U64,
];

/// Types that GGUF does not have; 8-bit floats and others become another type there.
const NOT_IN_GGUF: [DType; 5] = [DType::U16, DType::U8, DType::Bool, DType::C64, DType::U64];

#[derive(Clone, Debug)]
struct View {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

impl View {
    /// Elements up to the last one.
    fn reach(&self) -> usize {
        let empty = self.shape.contains(&0);
        let span =
            self.shape.iter().zip(&self.strides).map(|(&n, &s)| n.saturating_sub(1) * s).sum::<usize>();
        self.offset + if empty { 0 } else { span + 1 }
    }

    /// Storage indices in row-major order.
    fn places(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.strides).fold(vec![self.offset], |places, (&n, &stride)| {
            places.iter().flat_map(|p| (0..n).map(move |i| p + i * stride)).collect()
        })
    }
}

fn view() -> impl Strategy<Value = View> {
    let axis = (0usize..6, prop_oneof![Just(0usize), 1usize..9]);
    (prop::collection::vec(axis, 0..4), 0usize..20, any::<bool>()).prop_map(|(axes, offset, contiguous)| {
        let (shape, strides): (Vec<usize>, Vec<usize>) = axes.into_iter().unzip();
        let strides = if contiguous { contiguous_strides(&shape) } else { strides };
        View { shape, strides, offset }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn elements_stay_what_and_where_they_were(
        storages in prop::collection::vec((0..DTYPES.len(), prop::collection::vec(view(), 1..4)), 1..4),
        seed in any::<u8>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let [first, copy, flat, blocks] =
            ["first.pt", "copy.pt", "flat.safetensors", "flat.gguf"].map(|name| folder.path().join(name));
        // Any checkpoint can be the plan's source, because all bytes are given.
        let any = ckpt_kit::fixtures::fixture("formats/tied.pt");
        let source = open(&any).unwrap();
        let mut plan = Plan::new(&source, &Options::new(Target::Torch)).unwrap();
        (plan.blobs, plan.tensors, plan.pairs) = Default::default();
        plan.metadata = Value::Dict(Default::default());
        let mut wanted = Vec::new();
        for (n, (dtype, views)) in storages.iter().enumerate() {
            let dtype = DTYPES[*dtype];
            let size = dtype.element_size().unwrap();
            let elements = views.iter().map(View::reach).max().unwrap();
            let raw: Vec<u8> = (0..elements * size)
                .map(|i| if dtype == DType::Bool { i as u8 & 1 } else { (i as u8).wrapping_mul(31) ^ seed })
                .collect();
            for (m, view) in views.iter().enumerate() {
                let name = format!("s{n}.v{m}");
                let bytes: Vec<u8> = view.places().iter().flat_map(|p| raw[p * size..(p + 1) * size].to_vec()).collect();
                wanted.push((name.clone(), dtype, view.shape.clone(), bytes));
                let mut output = Output::new(name, dtype, view.shape.clone(), n);
                (output.strides, output.offset) = (view.strides.clone(), (view.offset * size) as u64);
                plan.tensors.push(output);
            }
            plan.blobs.push(Blob::new(dtype, raw.len() as u64, Content::Bytes(raw)));
        }
        let stop = Default::default();
        let control = Control::new(&|_| (), &stop);
        write(&mut plan, &Options::new(Target::Torch), &first, control).unwrap();
        let written = open(&first).unwrap();
        let gguf = Target::Gguf(Gguf::default());
        for (target, to) in [(Target::Torch, &copy), (Target::SafeTensors, &flat), (gguf, &blocks)] {
            let options = Options::new(target);
            let has_type = |dtype| !NOT_IN_GGUF.contains(&dtype);
            if target == gguf && !wanted.iter().all(|(_, dtype, ..)| has_type(*dtype)) {
                prop_assert!(Plan::new(&written, &options).is_err());
                continue;
            }
            let mut plan = Plan::new(&written, &options).unwrap();
            write(&mut plan, &options, to, control).unwrap();
            prop_assert!(verify_written(&plan, to).unwrap().agrees());
            let tied: std::collections::HashMap<_, _> = plan.tied.iter().cloned().collect();
            let checkpoint = open(to).unwrap();
            for (name, dtype, shape, bytes) in &wanted {
                let tensor = checkpoint.tensor(tied.get(name).unwrap_or(name)).unwrap();
                // GGUF's tensors have at least one dimension.
                let shape = if target == gguf && shape.is_empty() { &vec![1] } else { shape };
                if target == gguf && *dtype == DType::F8E4M3FN {
                    continue;
                }
                prop_assert_eq!((tensor.dtype, &tensor.shape), (*dtype, shape));
                prop_assert_eq!(&*checkpoint.tensor_bytes(tensor).unwrap(), bytes);
            }
        }
        // The first file itself contains what was planned.
        for (name, _, _, bytes) in &wanted {
            prop_assert_eq!(&*written.tensor_bytes(written.tensor(name).unwrap()).unwrap(), bytes);
        }
    }
}

/// Of a tensor with the negative or the conjugate bit set the file has what lies under it; a copy has what it stands for.
#[test]
fn elements_are_written_as_pytorch_loads_them() {
    use ckpt_kit::pickle::{dict, pickle};
    use ckpt_kit::{numbers, torch};

    let set = |bit: &'static str| [(bit, b"\x88".to_vec())];
    let values: Vec<f32> = (1..=6).map(|x| x as f32).collect();
    let of = |class: &str, key: &str, count, shape: &[usize], strides: &[usize], bits: &[(&str, Vec<u8>)]| {
        torch::rebuild_with(class, key, count, (shape, strides), bits)
    };
    let object = dict(&[
        ("plain", of("FloatStorage", "0", 6, &[2, 3], &[3, 1], &[])),
        ("negative", of("FloatStorage", "0", 6, &[2, 3], &[3, 1], &set("neg"))),
        ("turned", of("FloatStorage", "0", 6, &[3, 2], &[1, 3], &set("neg"))),
        ("conjugate", of("ComplexFloatStorage", "1", 3, &[3], &[1], &set("conj"))),
    ]);
    let storages = [numbers::le(&values), numbers::le(&values)];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bits.pt");
    std::fs::write(&path, torch::zip_of(&pickle(2, &object), &storages)).unwrap();
    let expected = [
        ("plain", [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("negative", [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]),
        ("turned", [-1.0, -4.0, -2.0, -5.0, -3.0, -6.0]),
        ("conjugate", [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]),
    ];
    let source = open(&path).unwrap();
    let stop = Default::default();
    let control = Control::new(&|_| (), &stop);
    for (target, name) in
        [(Target::Torch, "a.pt"), (Target::SafeTensors, "a.safetensors"), (Target::Npz, "a.npz")]
    {
        let (options, to) = (Options::new(target), folder.path().join(name));
        let mut plan = Plan::new(&source, &options).unwrap();
        write(&mut plan, &options, &to, control).unwrap();
        assert!(verify_written(&plan, &to).unwrap().agrees(), "{name}");
        let tied: std::collections::HashMap<_, _> = plan.tied.iter().cloned().collect();
        let copy = open(&to).unwrap();
        assert!(copy.warnings.is_empty(), "{name}: {:?}", copy.warnings);
        for (tensor, values) in &expected {
            let tensor = copy.tensor(tied.get(*tensor).map_or(*tensor, String::as_str)).unwrap();
            assert_eq!(*copy.tensor_bytes(tensor).unwrap(), numbers::le(values), "{name}: {}", tensor.name);
        }
    }
}
