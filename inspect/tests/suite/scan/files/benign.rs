//! Files that do nothing.

use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{bytes8, global};
use ckpt_kit::safetensors::raw;
use ckpt_kit::tar::tar;
use ckpt_kit::torch::MAGIC;
use ckpt_kit::zip::{entry, zip};

use super::{
    File, encoded, gguf, good, joblib, joblib_objects, legacy, legacy_of_one_storage, p2, state_dict, torch,
};

pub(super) fn benign() -> Vec<File> {
    let rebuilt = p2(&[
        &global("torch.storage", "_load_from_bytes")[..],
        &bytes8(&legacy(MAGIC, &p2(b"}"), &p2(b"}"))),
        b"\x85R",
    ]
    .concat());
    vec![
        good("plain-p0.pkl", "a dict, protocol 0", *b"(dp0\nS'lr'\np1\nF0.01\nsS'steps'\np2\n(lp3\nI1\naI2\nas."),
        good("plain-p2.pkl", "a dict, protocol 2", p2(b"}q\0(U\x02lrG?\x84z\xe1G\xae\x14{U\x05stepsK\x07u")),
        good("plain-p4.pkl", "a framed dict, protocol 4", *b"\x80\x04\x95\x0c\0\0\0\0\0\0\0}\x94\x8c\x04step\x94K\x07s."),
        good("sets-p4.pkl", "sets, big integers, bytes", [&b"\x80\x04(\x8f(K\x01K\x02\x90\x8a\x09\0\0\0\0\0\0\0\0\x01"[..], &bytes8(b"\x80\x04 by chance"), b"t."].concat()),
        good("several.pkl", "three pickles, one after another", [p2(b"}"), p2(b"]"), p2(b"K\x01")].concat()),
        good("namespace.pkl", "argparse.Namespace with a path and a set", p2(&[&global("argparse", "Namespace")[..], b")\x81}(U\x03out", &global("pathlib", "PosixPath"), b"U\x01x\x85RU\x03ids", &global("__builtin__", "set"), b"]K\x01a\x85Rub"].concat())),
        good("ordered.pkl", "an OrderedDict and a defaultdict of lists", p2(&[&b"]"[..], &global("collections", "OrderedDict"), b")Ra", &global("collections", "defaultdict"), &global("__builtin__", "list"), b"\x85Ra"].concat())),
        good("array.pkl", "a NumPy array", p2(&[&global("numpy.core.multiarray", "_reconstruct")[..], &global("numpy", "ndarray"), b"K\0\x85U\x01b\x87R(K\x01K\x01\x85", &global("numpy", "dtype"), b"U\x02f8K\0K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89U\x080123.567tb"].concat())),
        good("joblib-array.pkl", "an array of joblib's whose bytes look like opcodes", [joblib(b"cos\nsystem\n(S'id'\ntR.0123456789abcdefghi"), b".".to_vec()].concat()),
        good("joblib-objects-plain.pkl", "an array of objects of joblib's", [joblib_objects(&p2(b"}")), b".".to_vec()].concat()),
        good("array.npy", "a NumPy array of numbers", npy("\'<f8\'", false, "(1,)", &[0x80, 2, b'c', b'o', b's', 10, 1, 2])),
        good("array.npz", "arrays in .npz", zip(&[entry("a.npy", npy("\'<f8\'", false, "(1,)", &[0; 8]))])),
        good("state-dict.pt", "a state dict", torch(state_dict(), &[])),
        good("storage-by-chance.pt", "a storage that begins like a pickle", zip(&[entry("m/data.pkl", state_dict()), entry("m/data/0", *b"\x80\x04c\x01\x02\n\x03\n..")])),
        good("parts-plain.distcp", "archives one after another, as distributed checkpoints have them", [torch(state_dict(), &[]), torch(state_dict(), &[])].concat()),
        good("commented.zip", "text files in a zip", zip(&[entry("README.md", *b"cos\nsystem\n"), entry("config.json", *b"{}")])),
        good("legacy.pt", "a legacy file", legacy(MAGIC, &p2(b"}"), &p2(b"}U\x01ac__builtin__\nset\n]\x85Rs"))),
        good("nested-legacy-file.pkl", "_load_from_bytes on a harmless legacy file", rebuilt),
        good("legacy-tensor.pt", "a legacy file of one tensor", legacy_of_one_storage()),
        good("constants.pkl", "Ellipsis and NotImplemented", p2(&[&b"("[..], &global("__builtin__", "Ellipsis"), &global("__builtin__", "NotImplemented"), b"t"].concat())),
        good("masked.pkl", "a masked array of NumPy's", p2(&[&global("numpy.ma.core", "_mareconstruct")[..], b"(", &global("numpy.ma.core", "MaskedArray"), &global("numpy", "ndarray"), b"K\0\x85U\x01btR(K\x01K\x01\x85", &global("numpy", "dtype"), b"U\x02i1K\0K\x01\x87R\x89U\x01aU\x01\0Ntb"].concat())),
        good("matrix.pkl", "a matrix of NumPy's", p2(&[&global("numpy.core.multiarray", "_reconstruct")[..], &global("numpy", "matrix"), b"K\0\x85U\x01b\x87R"].concat())),
        good("generator.pkl", "a generator of NumPy's with its constructor", p2(&[&global("numpy.random._pickle", "__generator_ctor")[..], b"U\x05PCG64", &global("numpy.random._pickle", "__bit_generator_ctor"), b"\x86R"].concat())),
        good("optimizer.pkl", "an optimizer", p2(&[&global("torch.optim.sgd", "SGD")[..], b")\x81}(U\x08defaults}U\x0cparam_groups]ub"].concat())),
        good("schedule.pkl", "a schedule of learning rates", p2(&[&global("torch.optim.lr_scheduler", "StepLR")[..], b")\x81}U\x09step_sizeK\x03sb"].concat())),
        good("partial-plain.pkl", "functools.partial of int", p2(&[&global("functools", "partial")[..], &global("__builtin__", "int"), b"U\x0210\x86R"].concat())),
        good("array-beside.pkl", "an array that joblib loads from beside", p2(&[&global("joblib.numpy_pickle", "NDArrayWrapper")[..], b")\x81}(U\x08filenameU\x08a_01.npyU\x08subclass", &global("numpy", "ndarray"), b"ub"].concat())),
        good("array-bytes.pkl", "bytes that are encoded text, protocol 2", p2(&encoded(&[0, 1, 0xfe, 0x80]))),
        good("script.pt", "TorchScript", zip(&[entry("s/data.pkl", *b"\x80\x02c__torch__.m\nNet\n)\x81}U\x01nctorch.jit._pickle\nbuild_intlist\n](K\x01e\x85Rsb."), entry("s/constants.pkl", p2(b")")), entry("s/code/__torch__.py", "def forward(self, x):\n  return torch.add(ops.prim.data(x), 1)\n")])),
        good("oldest.tar", "PyTorch's oldest form", tar(&[("storages", b"\x80\x02K\0.\x80\x02].", None), ("tensors", b"\x80\x02K\0.", None), ("pickle", &p2(b"}"), None)])),
        good("model.safetensors", "SafeTensors", raw(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4])),
        good("template-mentions.gguf", "a chat template that mentions Python", gguf("tokenizer.chat_template", "{# __init__ #}Do not use __import__.{{ m['role'] }}")),
        good("text.bin", "text called .bin", *b"hello world\n"),
        good("template-plain.gguf", "a chat template that formats", gguf("tokenizer.chat_template", "{% for m in messages %}{{ m['role'] }}{% endfor %}")),
    ]
}
