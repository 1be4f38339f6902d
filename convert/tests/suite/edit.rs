//! Edits as a library makes them: what is computed, how often sources are read, and that any format can be written.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use ckpt_convert::edit::{
    Average, Drop, Edit, Keep, Pattern, Rename, Settings, Weights, checks_itself, edit,
};
use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Report, Target, verify_written, write};
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::stored::{Stat, Store, StoredFile, register};
use ckpt_inspect::{Checkpoint, Compute, DType, OpenOptions, Storage, open, open_bytes, open_bytes_with};
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::tensor::Tensor;

/// Files in memory that count how often each of their bytes is read.
#[derive(Debug)]
struct Counting(Mutex<Vec<(String, Arc<Counted>)>>);

#[derive(Debug)]
struct Counted {
    bytes: Vec<u8>,
    reads: Vec<AtomicU32>,
}

static COUNTING: LazyLock<Arc<Counting>> = LazyLock::new(|| {
    let counting = Arc::new(Counting(Mutex::default()));
    register(vec![counting.clone()]);
    counting
});

impl Counting {
    fn put(&self, name: &str, bytes: Vec<u8>) -> (PathBuf, Arc<Counted>) {
        let reads = bytes.iter().map(|_| AtomicU32::new(0)).collect();
        let file = Arc::new(Counted { bytes, reads });
        let location = format!("count://{name}");
        self.0.lock().unwrap().push((location.clone(), file.clone()));
        (location.into(), file)
    }

    fn get(&self, location: &str) -> io::Result<Arc<Counted>> {
        let files = self.0.lock().unwrap();
        let found = files.iter().find(|(name, _)| name == location);
        found.map(|(_, file)| file.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Store for Counting {
    fn schemes(&self) -> Vec<&'static str> {
        vec!["count"]
    }

    fn stat(&self, location: &str) -> io::Result<Stat> {
        Ok(Stat::file(self.get(location)?.len(), None))
    }

    fn list(&self, _: &str) -> io::Result<Vec<(String, Stat)>> {
        Ok(Vec::new())
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn StoredFile>> {
        Ok(self.get(location)?)
    }
}

impl StoredFile for Counted {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let range = range.start as usize..range.end as usize;
        self.reads[range.clone()].iter().for_each(|count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        Ok(self.bytes[range].to_vec())
    }

    fn expect(&self, _: &[Range<u64>]) -> io::Result<()> {
        Ok(())
    }
}

/// What `edits` make of `sources`, written to `path` and verified.
fn made(
    sources: Vec<Checkpoint>,
    edits: &[Box<dyn Edit>],
    options: &Options,
    path: &Path,
) -> ckpt_convert::Result<Report> {
    let edited = edit(sources, edits, &Settings::of(options))?;
    let mut plan = edited.plan(options)?;
    write(&mut plan, options, path, Control::new(&|_| (), &Default::default()))?;
    verify_written(&plan, path)
}

/// A checkpoint of several tensors, one of more pieces than one.
fn drawn(seed: u64) -> SafeTensors {
    let mut random = Random::new(seed);
    let mut values = |n: usize| (0..n).map(|_| random.even()).collect::<Vec<f32>>();
    SafeTensors::new()
        .f32s("a.weight", &[1100, 300], &values(330_000))
        .f32s("a.bias", &[300], &values(300))
        .f32s("b.weight", &[70, 1000], &values(70_000))
}

fn average(weights: Weights) -> Vec<Box<dyn Edit>> {
    vec![Box::new(Average::of(weights))]
}

#[test]
fn every_byte_of_every_source_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> =
        (0..4).map(|i| COUNTING.put(&format!("once/{i}.safetensors"), drawn(i).bytes())).collect();
    let sources = files.iter().map(|(path, _)| open(path).unwrap()).collect();
    // What opening read around the headers does not count.
    files.iter().flat_map(|(_, file)| &file.reads).for_each(|count| count.store(0, Ordering::Relaxed));
    let options = Options::new(Target::SafeTensors);
    let path = folder.path().join("mean.safetensors");
    let report = made(sources, &average(Weights::Equal), &options, &path).unwrap();
    assert!(report.agrees() && report.tensors.len() == 3);
    for (path, file) in files {
        let header = 8 + u64::from_le_bytes(file.bytes[..8].try_into().unwrap()) as usize;
        let data = &file.reads[header..];
        assert!(data.len() > 1 << 20);
        assert!(data.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{}", path.display());
    }
}

#[test]
fn a_copy_that_is_not_what_was_computed_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let source = |i| open_bytes("in memory", drawn(i).bytes()).unwrap();
    let options = Options::new(Target::SafeTensors);
    let edited = edit(vec![source(1), source(2)], &average(Weights::Equal), &Settings::of(&options)).unwrap();
    let mut plan = edited.plan(&options).unwrap();
    let path = folder.path().join("mean.safetensors");
    write(&mut plan, &options, &path, Control::new(&|_| (), &Default::default())).unwrap();
    assert!(verify_written(&plan, &path).unwrap().agrees());
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    let report = verify_written(&plan, &path).unwrap();
    let failures: Vec<_> = report.failures().collect();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].differing, 1);
}

/// The values of a tensor.
fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.values(checkpoint.tensor(name).unwrap()).unwrap()
}

#[test]
fn weights_are_divided_by_their_sum() {
    let one = |x: f32| open_bytes("one", SafeTensors::new().f32s("w", &[2], &[x, -x]).bytes()).unwrap();
    let sources = || vec![one(1.0), one(2.0), one(4.0)];
    let settings = Settings::of(&Options::new(Target::SafeTensors));
    for (weights, wanted) in [
        (Weights::Equal, 7.0 / 3.0),
        (Weights::Given(vec![2.0, 0.0, 2.0]), 2.5),
        (Weights::Given(vec![0.0, 0.5, 0.0]), 2.0),
    ] {
        let edited = edit(sources(), &average(weights), &settings).unwrap();
        assert_eq!(values(edited.checkpoint(), "w"), [wanted as f32, -wanted as f32]);
    }
}

#[test]
fn what_is_computed_reads_the_same_in_any_part() {
    #[derive(Debug)]
    struct Count;
    impl Compute for Count {
        fn bytes(&self, range: Range<u64>) -> ckpt_inspect::Result<Vec<u8>> {
            Ok(range.map(|at| at as u8).collect())
        }
    }
    let storage = Storage::computed(Arc::new(Count), 256);
    let source = open_bytes("x", SafeTensors::new().f32s("w", &[64], &[0.0; 64]).bytes()).unwrap();
    let mut tensor = source.tensor("w").unwrap().clone();
    (tensor.storage, tensor.byte_offset, tensor.dtype, tensor.shape) =
        (Some(storage.clone()), 0, DType::U8, vec![256]);
    assert_eq!(&*tensor.bytes().unwrap(), (0..=255).collect::<Vec<u8>>());
    (tensor.shape, tensor.strides, tensor.byte_offset) = (vec![3, 2], vec![1, 100], 7);
    assert_eq!(&*tensor.bytes().unwrap(), [7, 107, 8, 108, 9, 109]);
    tensor.shape = vec![3, 4];
    tensor.strides = vec![1, 100];
    assert!(tensor.bytes().is_err());
    assert_eq!(storage.gave(0, &[0]), None);

    // A mean, in ranges that begin and end anywhere.
    let settings = Settings::of(&Options::new(Target::SafeTensors));
    let sources = (1..4).map(|i| open_bytes("in memory", drawn(i).bytes()).unwrap()).collect();
    let edited = edit(sources, &average(Weights::Equal), &settings).unwrap();
    let tensor = edited.checkpoint().tensor("a.weight").unwrap();
    let whole = tensor.bytes().unwrap().into_owned();
    for (start, count) in
        [(0, 1), (65_535, 2), (65_536, 65_536), (100_000, 200_000), (329_999, 1), (3, 329_997)]
    {
        let part = tensor.stretch(start, count).unwrap();
        let (start, end) = (4 * start as usize, 4 * (start + count) as usize);
        assert!(*part.bytes().unwrap() == whole[start..end], "{start} {count}");
    }
    let storage = tensor.storage.as_ref().unwrap();
    assert_eq!(storage.gave(0, &whole), Some(true));
    assert_eq!(storage.gave(0, &whole[..4 * 65_536]), Some(true));
    assert_eq!(storage.gave(4 * 65_536, &whole[..4 * 65_536]), Some(false));
    assert_eq!(storage.gave(4, &whole[4..]), None, "no whole pieces");
}

#[test]
fn an_edited_checkpoint_is_written_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = |scale: f32| ckpt_kit::student::Student::default().drawn(scale);
    let source = |scale| open_bytes("student", SafeTensors::of(&tensors(scale)).bytes()).unwrap();
    let mean: Vec<Tensor> = tensors(0.03);
    let gguf = Gguf::new(Quant::Q4K, Quant::Q6K);
    for (i, target) in Target::all().chain([Target::Gguf(gguf)]).enumerate() {
        let options = Options::new(target);
        let path = folder.path().join(format!("out-{i}")).with_extension(target.form().extension);
        let edits = average(Weights::Equal);
        let report = made(vec![source(0.02), source(0.04)], &edits, &options, &path).unwrap();
        assert!(report.agrees(), "{target:?}: {:?}", report.failures().next());
        if target == Target::SafeTensors {
            let written = open(&path).unwrap();
            for tensor in &mean {
                let found = values(&written, &tensor.name);
                let close = found.iter().zip(&tensor.values).all(|(a, b)| (a - b).abs() < 1e-7);
                assert!(close, "{}", tensor.name);
            }
        }
    }
}

#[test]
fn names_that_a_file_calls_the_same_are_renamed_and_dropped_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = SafeTensors::new()
        .f32s("x.weight", &[2], &[1.0, 2.0])
        .metadata(serde_json::json!({"y.weight": "x.weight", "note": "kept"}));
    let source = || open_bytes("tied", file.bytes()).unwrap();
    let options = Options::new(Target::SafeTensors);
    let path = folder.path().join("a.safetensors");
    let rename: Vec<Box<dyn Edit>> = vec![Box::new(Rename::new(["*.weight=*.w"]).unwrap())];
    made(vec![source()], &rename, &options, &path).unwrap();
    let written = open(&path).unwrap();
    assert_eq!(values(&written, "x.w"), [1.0, 2.0]);
    let Value::Dict(metadata) = &written.metadata else { panic!("no metadata") };
    let tied = metadata.get(&HashableValue::String("y.w".into()));
    assert_eq!(tied, Some(&Value::String("x.w".into())));
    // The one that is there goes, and the other has its values.
    let keep: Vec<Box<dyn Edit>> = vec![Box::new(Keep::new(vec![Pattern::new("y.*").unwrap()]))];
    let path = folder.path().join("b.safetensors");
    made(vec![source()], &keep, &options, &path).unwrap();
    let written = open(&path).unwrap();
    assert_eq!(written.tensors.len(), 1);
    assert_eq!(values(&written, "y.weight"), [1.0, 2.0]);
    let drop: Vec<Box<dyn Edit>> = vec![Box::new(Drop::new(vec![Pattern::new("*").unwrap()]))];
    assert!(made(vec![source()], &drop, &options, &path).is_err());
}

#[test]
fn tensors_whose_checksum_is_compared_on_the_way_are_those_that_are_all_of_a_storage() {
    let checkpoint = open(ckpt_kit::fixtures::fixture("healthy-run/step-02000.pt")).unwrap();
    assert!(checkpoint.tensors.iter().filter(|t| t.dtype == DType::F32).all(checks_itself));
    let source = open_bytes("x", drawn(1).bytes()).unwrap();
    assert!(!source.tensors.iter().any(checks_itself), "SafeTensors has no checksums");
}

#[test]
fn what_torchao_says_of_an_instance_goes_with_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let told = r#"{"_type": "Int8Tensor", "_data": {"block_size": [1, 32]}, "_tensor_data_names": ["qdata", "scale"]}"#;
    let file = SafeTensors::new()
        .tensor("model.a._weight_qdata", "I8", &[4, 32], &[7; 128])
        .f32s("model.a._weight_scale", &[4, 1], &[0.5; 4])
        .metadata(serde_json::json!({"model.a.weight": told, "tensor_names": "[\"model.a.weight\"]"}));
    let source = || {
        let mut stored = OpenOptions::default();
        stored.stored = true;
        open_bytes_with("instances", file.bytes(), &stored).unwrap()
    };
    let options = Options::new(Target::SafeTensors).with(|o| o.keep_quantized = true);
    let rename = |rule: &str| -> Vec<Box<dyn Edit>> { vec![Box::new(Rename::new([rule]).unwrap())] };
    let path = folder.path().join("a.safetensors");
    made(vec![source()], &rename("model.*=net.*"), &options, &path).unwrap();
    let written = open(&path).unwrap();
    assert_eq!(values(&written, "net.a.weight"), [3.5; 128]);
    let Value::Dict(metadata) = &written.metadata else { panic!("no metadata") };
    let listed = metadata.get(&HashableValue::String("tensor_names".into()));
    assert_eq!(listed, Some(&Value::List(vec![Value::String("net.a.weight".into())])));
    // Parts that would not be called after it.
    let error = made(vec![source()], &rename("*._weight_scale=*.scale"), &options, &path).unwrap_err();
    assert!(error.to_string().contains("torchao would not find it"), "{error}");
}
