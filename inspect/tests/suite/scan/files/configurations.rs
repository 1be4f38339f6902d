//! Configurations that name code, and pickles that are compressed.

use std::io::Write;

use ckpt_kit::tar::tar;
use ckpt_kit::zip::{entry, zip};

use super::{File, bad, bare, evil, good, gzip, p2, payload};

const LAMBDA: &str = r#"{"module": "keras", "class_name": "Functional", "config": {"layers": [{"module": "keras.layers",
    "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}}}]}}"#;
const DENSE: &str = r#"{"module": "keras", "class_name": "Functional", "config": {"layers": [{"module": "keras.layers",
    "class_name": "Dense", "config": {"units": 4, "activation": "relu"}}]}}"#;

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), Default::default()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As `lzma.compress(bytes, lzma.FORMAT_ALONE)` writes it.
pub(super) fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = Default::default();
    let mut encoder = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// NeMo's archive.
fn nemo(configuration: &str) -> Vec<u8> {
    tar(&[("./model_config.yaml", configuration.as_bytes(), None), ("./model_weights.ckpt", &p2(b"}"), None)])
}

/// Files that are harmless by themselves, and name code.
pub(super) fn configurations() -> Vec<File> {
    vec![
        bad("target.nemo", "NeMo's configuration with _target_: os.system", nemo("loss:\n  _target_: os.system\n")),
        bad("tag.nemo", "YAML that makes a Python object", nemo("a: !!python/object/apply:os.system [id]\n")),
        bad("alias.yaml", "_target_ by an alias", *b"a: &x os.system\nb:\n  _target_: *x\n"),
        bad("handler.mar", "TorchServe's handler", zip(&[
            entry("MAR-INF/MANIFEST.json", *br#"{"model": {"modelName": "m", "handler": "h.py"}}"#),
            entry("h.py", *b"import os\n"),
        ])),
        bad("nodes.skops", "a node of skops that is os.system", zip(&[
            entry("schema.json", *br#"{"__class__": "function", "__module__": "builtins", "__loader__": "FunctionNode", "content": {"module_path": "os", "function": "system"}}"#),
        ])),
        bad("lambda.keras", "a Lambda layer of Keras", zip(&[entry("config.json", LAMBDA), entry("model.weights.h5", *b"\x89HDF")])),
        bad("module.keras", "a layer of Keras that is os.system", zip(&[
            entry("config.json", DENSE.replace(r#""keras.layers""#, r#""os""#).replace("Dense", "system")),
            entry("model.weights.h5", *b"\x89HDF"),
        ])),
        bad("config.json", "auto_map names a class in a file beside it", *br#"{"auto_map": {"AutoModel": "modeling_it.Model"}}"#),
        bad("adapter_config.json", "an adapter whose base class is in a module of its own", *br#"{"auto_mapping": {"base_model_class": "M", "parent_library": "evil"}}"#),
        bad("numbered-modules.json", "sentence-transformers' module that is os.system", *br#"[{"idx": 0, "name": "0", "path": "", "type": "os.system"}]"#),
        bad("tokenizer_config.json", "a chat template that reaches into Python", *br#"{"chat_template": "{{ x.__cl\u0061ss__ }}"}"#),
        bad("reached.yaml", "_target_ through what a library imports", *b"_target_: sklearn.os.execv\n"),
        bad("wide.json", "auto_map in UTF-16", "\u{feff}{\"auto_map\": {\"AutoModel\": \"m.M\"}}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        bad("model_index.json", "a component of diffusers in a file of its own", *br#"{"_diffusers_version": "0.30.0", "unet": ["my_unet", "Unet"]}"#),
        bad("also.jinja", "a chat template that is a pickle, too", *b"ccollections\nOrderedDict\n)RV{{ x.__class__ }}\n0."),
        bad("deep.yaml", "a tag of Python's where YAML is nested too deeply", {
            let (open, close) = ("[".repeat(140), "]".repeat(140));
            format!("%TAG !p! tag:yaml.org,2002:pyth\n---\n{open}!p!on/object/apply:os.system [id]{close}\n")
        }),
        bad("chat_template.jinja", "the same in a file of its own", *b"{{ x.__class__ }}"),
        bad("compressed.pkl.xz", "compressed with xz", xz(&evil())),
        bad("compressed.pkl.bz2", "compressed with bzip2", bzip2(&evil())),
        bad("compressed.pkl.lz4", "compressed with LZ4", lz4(&evil())),
        bad("compressed.lzma", "compressed with LZMA", lzma(&evil())),
        bad("twice.pkl.gz", "two streams of gzip, one after another", [gzip(b"\x80\x02"), gzip(&evil()[2..])].concat()),
        bad("twice.pkl", "compressed with bzip2, and that with xz", xz(&bzip2(&evil()))),
        good("pipeline.json", "a pipeline of diffusers", *br#"{"_diffusers_version": "0.30.0", "_class_name": "P", "unet": ["diffusers", "UNet2DModel"], "safety_checker": [null, null]}"#),
        good("plain.nemo", "NeMo's archive", nemo("optim:\n  name: adam\n  lr: 0.1\n")),
        good("plain.keras", "a model of Keras", zip(&[entry("config.json", DENSE), entry("model.weights.h5", *b"\x89HDF")])),
        good("plain.pkl.xz", "a dict compressed with xz", xz(&p2(b"}"))),
        good("generation_config.json", "a configuration", *br#"{"temperature": 0.6, "type": "llama", "target": "cpu"}"#),
    ]
}

/// What only some of Python's unpicklers execute.
pub(super) fn some_readers() -> Vec<File> {
    // BINBYTES, the first byte of its length within the frame, and what its bytes are to who reads on.
    let dropped = [&[b'B', payload().len() as u8 + 1, 0, 0, 0, 0][..], &payload(), b"."].concat();
    let framed = [&b"\x80\x04\x95\x02\0\0\0\0\0\0\0"[..], &dropped].concat();
    let behind = [&b"clib-dynload\n__name__\n0"[..], &bare()].concat();
    let storages = [
        &p2(b"K\x01")[..],
        &p2(b"X\x01\0\0\x000X\x03\0\0\0cpuctorch\nFloatStorage\n\x87"),
        &2u64.to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    let oldest = |storages: &[u8]| {
        tar(&[("storages", storages, None), ("tensors", b"\x80\x02K\0.", None), ("pickle", &p2(b"}"), None)])
    };
    let load = |bytes: &[u8]| super::loads(bytes);
    // 16 characters to Python up to 3.13, and 20 from then on.
    let octal = [&b"cbuiltins\nbytes\n("[..], b"I85\nI020\n", &b"K0".repeat(20), b"K.", b"l\x85R"].concat();
    let latin = [&b"c_codecs\nencode\n(T\x04\0\0\0\xc3\xa9\xc3\xa9U\x06latin1tR"[..]].concat();
    vec![
        bad("memo-stays.pkl", "an import by the memo of the pickle before it", [
            &b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x86."[..],
            b"\x80\x04\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94h\0h\x01\x93.",
        ].concat()),
        bad("short-system.pt", "PyTorch's legacy form with a system info of two bytes", super::legacy(ckpt_kit::torch::MAGIC, b"N.", &evil())),
        bad("nothing-first.safetensors", "SafeTensors that is pickles, of which the first does nothing", {
            let mut file = super::safetensors_and_pickle();
            let at = file.len() - 64;
            let evil = [&b"0N.N."[..], &payload(), b"."].concat();
            file[at..at + evil.len()].copy_from_slice(&evil);
            file
        }),
        bad("more-follows.model.gz", "a compressed pickle without a header, and bytes after it", gzip(&[bare(), b"\x01\x02".to_vec()].concat())),
        bad("type-by-name.pkl", "an array of joblib's whose type is called float32", [
            super::joblib_array("float32", 1), vec![3, 0xff, 0xff, 0xff], vec![0; 4], b"0".to_vec(), bare(), vec![0; 40],
        ].concat()),
        bad("package.pt", "sources in a package of PyTorch's", zip(&[
            entry("p/.data/extern_modules", *b"torch\n"),
            entry("p/.data/version", *b"6\n"),
            entry("p/model.py", *b"import os\n"),
        ])),
        good("relu.pkl", "torch.relu", p2(b"c__builtin__\ngetattr\nctorch._C\n_VariableFunctionsClass\nU\x04relu\x86R")),
        good("memmap.pkl", "an array that was in a file, which NumPy builds anew", p2(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmemmap\nK\0\x85U\x01b\x87R",
        )),
        good("lazy.pkl", "nothing but a layer", p2(b"ctorch.nn.modules.linear\nLazyLinear\n)\x81")),
        bad("memmap-called.pkl", "an array in a file, which is opened", p2(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmemmap\nq\0K\0\x85U\x01b\x87R0h\0U\x02/x\x85R",
        )),
        bad("memmap-shared.pkl", "arguments that something else gets before NumPy", p2(
            b"ctorch._tensor\n_rebuild_from_type_v2\n(cnumpy\nmemmap\nctorch\nTensor\n(U\x02/xU\x05uint8U\x02w+K\0K\n\x85t}tq\x01R0cnumpy.core.multiarray\n_reconstruct\nh\x01R",
        )),
        bad("memmap-later.pkl", "the same in the pickle after it", [
            p2(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmemmap\nq\0K\0\x85U\x01b\x87R"),
            p2(b"h\0U\x02/x\x85R"),
        ].concat()),
        bad("getattr-later.pkl", "a use of getattr by the memo of the pickle before it", [
            p2(b"c__builtin__\ngetattr\nq\0ctorch._C\n_VariableFunctionsClass\nU\x04relu\x86R"),
            p2(b"h\0ctorch._utils\n_rebuild_tensor_v2\nU\x0b__globals__\x86R"),
        ].concat()),
        bad("octal.pkl", "_load_from_bytes on numbers that Python 3.14 reads otherwise", load(&octal)),
        bad("latin.pkl", "_load_from_bytes on characters that depend on the encoding", load(&latin)),
        bad("scalar-class.pkl", "attributes of a class that NumPy's scalar gives back", p2(
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x01O\x85Rctorch.nn.modules.linear\nLinear\n\x86RN}U\x07forwardNs\x86b",
        )),
        bad("torn-frame.pkl", "an argument beyond its frame, which some readers drop", framed.clone()),
        bad("torn-frame.pt", "the same in PyTorch's zip", super::torch(framed, &[])),
        bad("inst-without-mark.pkl", "INST that fails after its import", *b"iposix\nsystem\n."),
        bad(
            "last-line.pkl",
            "an import in the file's last line, which fails after it",
            *b"\x80\x02cantigravity!",
        ),
        bad("oldest-p0.pt", "PyTorch's oldest form, protocol 0 in front of the storages", oldest(&bare())),
        bad("oldest-later.pt", "the same behind a storage", oldest(&[storages, bare()].concat())),
        bad("folder-first.pt", "an import of a folder of Python's, and then the call", oldest(&behind)),
    ]
}
