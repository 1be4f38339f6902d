//! What one loader takes for something harmless and another executes: entries that a pickle calls storages, pickles followed by
//! other bytes, sources that are arrays, packages that are compiled; and functions that only make values.

use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{global, short_text};
use ckpt_kit::tar::tar;
use ckpt_kit::torch::{MAGIC, legacy_of};
use ckpt_kit::zip::{Entry, entry, zip};

use super::configurations::lzma;
use super::{File, bad, evil, good, p2, p3, torch, zlib};

const LAMBDA: &str = r#"{"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda", "config": {"function": ["4wEAAAA=", null, null], "function_type": "lambda"}}]}}"#;
const MANIFEST: &str = r#"{"runtime": "python", "model": {"modelName": "m", "serializedFile": "m/data/w.bin", "handler": "image_classifier"}}"#;

/// A PyTorch archive whose object is the storage `key`, and `more`.
fn storage(key: &str, bytes: Vec<u8>, more: &[Entry]) -> Vec<u8> {
    let key_of = [&b"X"[..], &(key.len() as u32).to_le_bytes(), key.as_bytes()].concat();
    let object =
        [&b"(X\x07\0\0\0storagectorch\nFloatStorage\n"[..], &key_of, b"X\x03\0\0\0cpuK\x01tQ"].concat();
    let mut entries = vec![entry("m/data.pkl", p2(&object)), entry(&format!("m/data/{key}"), bytes)];
    entries.extend_from_slice(more);
    zip(&entries)
}

fn elf() -> Vec<u8> {
    [&b"\x7fELF\x02\x01\x01"[..], &[0; 57]].concat()
}

/// PyTorch's oldest form.
fn oldest() -> Vec<u8> {
    tar(&[("storages", b"\x80\x02K\0.", None), ("tensors", b"\x80\x02K\0.", None), ("pickle", &evil(), None)])
}

fn package(more: &[Entry]) -> Vec<u8> {
    let mut entries = vec![entry("m/archive_format", *b"pt2")];
    entries.extend_from_slice(more);
    zip(&entries)
}

/// A pickle without a header that calls something by harmless names, and bytes behind it.
fn followed() -> Vec<u8> {
    let evil = evil();
    [&b"ctorch.storage\n_load_from_bytes\n(C"[..], &[evil.len() as u8], &evil, b"tR.x\0\x01"].concat()
}

fn script(object: &[u8], code: &str) -> Vec<u8> {
    zip(&[
        entry("s/data.pkl", object),
        entry("s/constants.pkl", p2(b")")),
        entry("s/code/__torch__.py", code),
    ])
}

fn call(module: &str, name: &str, arguments: &[&[u8]]) -> Vec<u8> {
    [&global(module, name)[..], b"(", &arguments.concat(), b"tR"].concat()
}

fn get(from: &[u8], name: &str) -> Vec<u8> {
    call("__builtin__", "getattr", &[from, &short_text(name)])
}

fn beside(class: &str, name: &str) -> Vec<u8> {
    let state = [
        &short_text("filename")[..],
        &short_text(name),
        &short_text("init_args"),
        &global("numpy", "ndarray"),
        b"K\0\x85",
        &short_text("b"),
        b"\x87",
        &short_text("state"),
        b"(K\x01K\x02\x85",
        &call("numpy", "dtype", &[&short_text("f8"), b"\x89\x88"]),
        b"\x89t",
    ];
    p3(&[&global("joblib.numpy_pickle", class), b")\x81}(", &state.concat(), b"ub"])
}

pub(super) fn masked() -> Vec<File> {
    [storages(), members(), of_java(), values(), functions()].into_iter().flatten().collect()
}

fn storages() -> Vec<File> {
    let manifest = [entry("MAR-INF/MANIFEST.json", MANIFEST)];
    let legacy = legacy_of(&p2(b"}"), &evil(), b"\x80\x02].");
    assert!(legacy.starts_with(MAGIC));
    vec![
        bad(
            "library-as-storage.pt2",
            "a shared library that an object calls its storage",
            storage("aotinductor/model/w.so", elf(), &[entry("m/archive_format", *b"pt2")]),
        ),
        bad(
            "tar-as-storage.mar",
            "PyTorch's oldest form as a storage",
            storage("w.bin", oldest(), &manifest),
        ),
        bad("tar-as-number.zip", "the same with a number for a name", storage("0", oldest(), &[])),
        bad(
            "zlib-as-number.zip",
            "a pickle compressed with zlib as a storage",
            storage("0", zlib(&evil()), &[]),
        ),
        bad("lzma-as-number.zip", "the same with LZMA", storage("0", lzma(&evil()), &[])),
        bad("legacy-as-number.zip", "a legacy file as a storage", storage("0", legacy, &[])),
        bad(
            "yaml-as-storage.nemo",
            "a configuration as a storage",
            storage("model_config.yaml", b"_target_: os.system\ncommand: id\n".to_vec(), &[]),
        ),
        bad(
            "template-as-storage.zip",
            "a chat template as a storage",
            storage("chat_template.jinja", b"{{ x.__class__ }}".to_vec(), &[]),
        ),
        bad(
            "keras-as-storage.zip",
            "a model of Keras as a storage",
            storage("config.json", LAMBDA.as_bytes().to_vec(), &[]),
        ),
        good(
            "storage-like-zlib.pt",
            "a storage of 16-bit numbers that begin as zlib does",
            storage("0", [0x78, 0x9c, 0x3c, 0x1a].repeat(64), &[]),
        ),
        good(
            "storage-like-lzma.pt",
            "one of bytes that begin as LZMA does",
            storage("0", [&[0x5d, 0, 0, 1, 0][..], &[0xc3, 7, 9, 21].repeat(64)].concat(), &[]),
        ),
    ]
}

fn members() -> Vec<File> {
    let object = npy("'|O'", false, "(1,)", &evil());
    let changed = [&global("torch.nn.modules.linear", "Linear")[..], b"}U\x01xK\x01sb.x\0\x01"].concat();
    vec![
        bad(
            "followed.zip",
            "a pickle of harmless names in a member, before other bytes",
            zip(&[entry("weights", followed())]),
        ),
        bad(
            "followed.tar",
            "the same in a tar, called like a text",
            tar(&[("README.md", &followed(), None)]),
        ),
        bad("followed", "the same by itself", followed()),
        bad("followed-change.zip", "one that changes a class", zip(&[entry("weights", changed)])),
        good(
            "lines.zip",
            "lists of words whose first lines read like an import",
            zip(&[entry("guarded", *b"cases\n(none)\nR.\n"), entry("words", *b"cat\ndog\neel\n")]),
        ),
        bad(
            "compiled.pt2",
            "a source that PyTorch compiles when it loads the package",
            package(&[entry("m/data/aotinductor/model/w.wrapper.cpp", *b"int main() {}")]),
        ),
        bad(
            "compiler.pt2",
            "commands by which it is compiled",
            package(&[entry(
                "m/data/aotinductor/model/w_compile_flags.json",
                *br#"{"compiler": "g++; id;"}"#,
            )]),
        ),
        good(
            "sources.pt2",
            "a package of a program and its metadata",
            package(&[
                entry("m/data/weights/notes.txt", *b"int main() {}"),
                entry("m/data/aotinductor/model/w_metadata.json", *br#"{"AOTI_DEVICE_KEY": "cpu"}"#),
            ]),
        ),
        bad(
            "source-array.npz",
            "an array of objects that is called like a source of TorchScript",
            zip(&[entry("m/constants.pkl", p2(b")")), entry("m/a.py", object)]),
        ),
        bad(
            "source-pickle.zip",
            "the same of a pickle",
            zip(&[entry("m/constants.pkl", p2(b")")), entry("m/a.py", evil())]),
        ),
        bad(
            "source-zip.zip",
            "the same of an archive",
            zip(&[entry("m/constants.pkl", p2(b")")), entry("m/a.py", torch(evil(), &[]))]),
        ),
        bad(
            "script-class.pt",
            "TorchScript that uses a class of a foreign library",
            script(&p2(b"}"), "x = __torch__.torch.classes.dist_c10d.FileStore.__new__(y)\n"),
        ),
        bad(
            "script-state.pt",
            "TorchScript whose object is of such a class",
            script(b"\x80\x02c__torch__.torch.classes.evil\nThing\n)\x81K\x01b.", ""),
        ),
        good(
            "script-quantized.pt",
            "TorchScript with a class of PyTorch's own",
            script(
                b"\x80\x02c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n)\x81K\x01b.",
                "x : __torch__.torch.classes.quantized.LinearPackedParamsBase = y\n",
            ),
        ),
    ]
}

fn of_java() -> Vec<File> {
    let manifest = || entry("META-INF/MANIFEST.MF", *b"Manifest-Version: 1.0\n");
    vec![
        bad(
            "native.jar",
            "machine code in an archive of Java's",
            zip(&[manifest(), entry("lib/a.so", elf())]),
        ),
        bad(
            "native-script.jar",
            "the same in one that TorchServe would take",
            zip(&[manifest(), entry("MAR-INF/MANIFEST.json", MANIFEST), entry("lib/a.so", elf())]),
        ),
    ]
}

fn values() -> Vec<File> {
    let layer = global("torch.nn.modules.linear", "Linear");
    let max = |of: &[u8]| call("builtins", "max", &[&[b"(", of, b"t"].concat()]);
    let changed = |value: &[u8]| p3(&[value, b"}", &short_text("x"), b"K\x01sb"]);
    let handed = |module: &str, name: &str| p3(&[&call("functools", "partial", &[&global(module, name)])]);
    let addresses = |class: &str, text: &str| {
        p3(&[&call("builtins", "list", &[&call("ipaddress", class, &[&short_text(text)])])])
    };
    vec![
        bad("picked-changed.pkl", "the state of a class that max gives", changed(&max(&layer))),
        bad("summed-changed.pkl", "the same of sum", changed(&call("builtins", "sum", &[b")", &layer]))),
        bad(
            "numpy-picked-changed.pkl",
            "the same of NumPy's max",
            changed(&call("numpy", "max", &[&[b"(", &layer[..], b"t"].concat()])),
        ),
        bad(
            "picked-handed.pkl",
            "max of _load_from_bytes",
            p3(&[&max(&global("torch.storage", "_load_from_bytes"))]),
        ),
        bad(
            "rebuilt-computed.pkl",
            "attributes of what _rebuild_from_type_v2 calls by functools.partial",
            p3(&[&call(
                "torch._tensor",
                "_rebuild_from_type_v2",
                &[
                    &call("functools", "partial", &[&global("http", "HTTPStatus"), b"M\x94\x01"]),
                    &global("torch", "Tensor"),
                    b")}",
                    &short_text("x"),
                    b"K\x01s",
                ],
            )]),
        ),
        bad("reduce.pkl", "functools.reduce", handed("_functools", "reduce")),
        bad(
            "formats.pkl",
            "str.format, which reaches for attributes",
            p3(&[&get(&global("__builtin__", "str"), "format")]),
        ),
        bad("addresses.pkl", "a list of all addresses", addresses("IPv6Network", "::/0")),
        bad(
            "lists-added.pkl",
            "a sum of lists, which takes the square of their number",
            p3(&[&call("builtins", "sum", &[b"]", b"]"])]),
        ),
        good("addresses-few.pkl", "a list of some addresses", addresses("IPv4Network", "10.0.0.0/24")),
        good(
            "beside-compressed.pkl",
            "an array that joblib decompresses from beside",
            beside("ZNDArrayWrapper", "a_01.npy.z"),
        ),
        bad("above-compressed.pkl", "one from the folder above", beside("ZNDArrayWrapper", "../a_01.npy.z")),
    ]
}

fn functions() -> Vec<File> {
    let named = |names: &[(&str, &str)]| {
        let imports: Vec<u8> = names.iter().flat_map(|(module, name)| global(module, name)).collect();
        p3(&[b"(", &imports, b"t"])
    };
    vec![
        good("builtins.pkl", "functions of Python's that make values", {
            let names =
                ["max", "min", "sum", "print", "any", "chr", "divmod", "isinstance", "next", "repr", "hash"];
            named(&names.map(|name| ("__builtin__", name)))
        }),
        good("largest.pkl", "max(1, 2)", p3(&[&call("builtins", "max", &[b"K\x01K\x02"])])),
        good(
            "functions-of-torch.pkl",
            "functions of PyTorch's",
            named(&[
                ("torch._C._fft", "fft_fft"),
                ("torch._C._linalg", "linalg_norm"),
                ("torch._C._special", "special_expit"),
                ("torch._C._sparse", "_sparse_mm"),
                ("torch.functional", "einsum"),
                ("torch.nn.functional", "_threshold"),
                ("torch.signal.windows.windows", "hann"),
                ("torch.nn.init", "calculate_gain"),
                ("numpy", "argmax"),
                ("numpy", "concatenate"),
            ]),
        ),
        good("method.pkl", "a method of tensors", p3(&[&get(&global("torch._C", "TensorBase"), "relu")])),
        bad(
            "method-hidden.pkl",
            "another attribute of theirs",
            p3(&[&get(&global("torch._C", "TensorBase"), "__init__")]),
        ),
        good(
            "methods.pkl",
            "methods of a text and of its class",
            p3(&[
                &get(&global("__builtin__", "str"), "lower"),
                &get(&short_text("a"), "split"),
                &get(b"}", "get"),
                b"\x87",
            ]),
        ),
        good(
            "getter.pkl",
            "operator.attrgetter('x')",
            p3(&[&call("operator", "attrgetter", &[&short_text("x")])]),
        ),
        good(
            "dill-type.pkl",
            "int as dill pickles it",
            p3(&[&call("dill._dill", "_load_type", &[&short_text("int")])]),
        ),
        bad(
            "dill-code.pkl",
            "the type of code",
            p3(&[&call("dill._dill", "_load_type", &[&short_text("CodeType")])]),
        ),
    ]
}
