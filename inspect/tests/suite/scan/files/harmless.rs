//! What looks harmless: loaders handed on to other calls, names that promise nothing, values that change later.

use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{global, short_text};
use ckpt_kit::tar::tar;
use ckpt_kit::torch::MAGIC;
use ckpt_kit::zip::{entry, zip};

use super::{
    File, archive_in_a_comment, bad, bare, encoded, evil, gguf, joblib_swallows, loads, made_of_integers,
    old_tar, p2, p3, state_dict, torch,
};

/// Loaders that are passed to harmless callables, and bytes that calls make.
pub(super) fn handed_on() -> Vec<File> {
    let load = global("torch.storage", "_load_from_bytes");
    let int = global("builtins", "int");
    let rebuild = global("torch._tensor", "_rebuild_from_type_v2");
    let short = |bytes: &[u8]| [&[b'C', bytes.len() as u8], bytes].concat();
    let rebuilt = |bytes: &[u8]| p3(&[&rebuild, b"(", &load, &int, bytes, b"\x85}tR"]);
    let constructed =
        p3(&[&global("numpy.random._pickle", "__generator_ctor"), b"(", &short(&bare()), &load, b"tR"]);
    let first =
        p3(&[&global("torch._tensor", "_rebuild_from_type"), b"(", &load, &int, &short(&bare()), b"\x85}tR"]);
    let wrapper = |name: &str| {
        p3(&[
            &global("joblib.numpy_pickle", "NDArrayWrapper"),
            b")\x81}(U\x08filename",
            &[b'U', name.len() as u8],
            name.as_bytes(),
            b"U\x08subclass",
            &global("numpy", "ndarray"),
            b"ub",
        ])
    };
    let class =
        [short_text("joblib.numpy_pickle"), short_text("NumpyArrayWrapper"), b"\x93".to_vec()].concat();
    let made = [&class[..], b")\x81"].concat();
    let remade =
        [&global("copyreg", "_reconstructor")[..], &class, &global("builtins", "object"), b"N\x87R"].concat();
    let grown = [
        &b"\x80\x05"[..],
        &load,
        b"\x96\0\0\0\0\0\0\0\0(",
        &bare().iter().flat_map(|&byte| [b'K', byte]).collect::<Vec<u8>>(),
        b"e\x85R.",
    ];
    let in_a_class = [MAGIC, b"\x80\x02M\xe9\x03.", &p2(b"}")].concat();
    let object = p2(&[&b"(U\x06module"[..], &load, b"U\x01xU\x01xtQU\x01x\x85R"].concat());
    vec![
        bad(
            "handed-rebuild.pkl",
            "_load_from_bytes handed to _rebuild_from_type_v2",
            rebuilt(&short(&bare())),
        ),
        bad("handed-rebuild-v1.pkl", "_load_from_bytes handed to _rebuild_from_type", first),
        bad(
            "handed-constructor.pkl",
            "_load_from_bytes handed to NumPy's __generator_ctor",
            constructed.clone(),
        ),
        bad("handed-constructor.pt", "the same in PyTorch's zip", torch(constructed, &[])),
        bad("handed-encoded.pkl", "on bytes that _codecs.encode makes", rebuilt(&encoded(&bare()))),
        bad(
            "handed-encoded-p2.pkl",
            "on bytes with a header that _codecs.encode makes",
            rebuilt(&encoded(&evil())),
        ),
        bad("handed-integers.pkl", "on bytes made of integers", rebuilt(&made_of_integers("bytes", &bare()))),
        bad(
            "handed-factory.pkl",
            "_load_from_bytes as a defaultdict's factory",
            p3(&[&global("collections", "defaultdict"), &load, b"\x85R"]),
        ),
        bad(
            "handed-state.pkl",
            "_load_from_bytes as a layer's forward",
            p3(&[&global("torch.nn.modules.linear", "Linear"), b")\x81}U\x07forward", &load, b"sb"]),
        ),
        bad(
            "called-class.pt",
            "legacy, _load_from_bytes as the class of a persistent id",
            [&in_a_class[..], &object, b"\x80\x02]."].concat(),
        ),
        bad(
            "loads-integers.pkl",
            "_load_from_bytes on bytes made of integers",
            p3(&[&load, &made_of_integers("bytearray", &bare()), b"\x85R"]),
        ),
        bad("loads-grown.pkl", "_load_from_bytes on a bytearray that APPENDS fills", grown.concat()),
        bad(
            "loads-encoded.pkl",
            "_load_from_bytes on bytes that _codecs.encode makes",
            p3(&[&load, &encoded(&bare()), b"\x85R"]),
        ),
        bad(
            "array-remade.pkl",
            "joblib's wrapper of an array, made by _reconstructor",
            joblib_swallows(&remade, b"K\x01\x85", -1),
        ),
        bad(
            "array-of-no-size.pkl",
            "joblib's array of a size that is computed",
            joblib_swallows(&made, &[&global("builtins", "tuple")[..], b"]K\x01a\x85R"].concat(), -1),
        ),
        bad(
            "array-resized.pkl",
            "joblib's array of a type whose state gives it another size",
            joblib_swallows(&made, b"K\x00\x85", 200),
        ),
        bad("array-elsewhere.pkl", "joblib loads an array from /etc", wrapper("/etc/evil.npy")),
        bad("array-above.pkl", "joblib loads an array from the folder above", wrapper("../evil.npy")),
    ]
}

/// What scanners take for harmless by its name, by its first reader, or before it has changed.
pub(super) fn taken_for_harmless() -> Vec<File> {
    let set: Vec<u8> =
        bare().iter().enumerate().flat_map(|(i, &byte)| [b'K', i as u8, b'K', byte, b's']).collect();
    let zeros = b"K\0".repeat(bare().len());
    let set_later = [&global("builtins", "bytes")[..], b"](", &zeros, b"e", &set, b"\x85R"].concat();
    let integers: Vec<u8> = bare().iter().flat_map(|&byte| [b'K', byte]).collect();
    // The list holds something harmless, but only after bytes were made of it.
    let changed: Vec<u8> =
        b"}.".iter().enumerate().flat_map(|(i, &b)| [b'K', i as u8, b'K', b, b's']).collect();
    let changed_later = [
        &b"]q\0("[..],
        &integers,
        b"e0",
        &global("builtins", "bytes"),
        b"h\0\x85Rq\x010h\0",
        &changed,
        b"0h\x01",
    ]
    .concat();
    let ignored = |make: &[u8]| {
        let text = String::from_utf8(bare()).unwrap() + "\u{e9}";
        let length = (text.len() as u32).to_le_bytes();
        loads(&[make, b"X", &length, text.as_bytes(), b"X\x05\0\0\0asciiX\x06\0\0\0ignore\x87R"].concat())
    };
    let skipped = [&b"cos\nsystem\n"[..], &short_text("id"), b"\x85R."].concat();
    let array = p2(&[
        &global("joblib.numpy_pickle", "NumpyArrayWrapper")[..],
        b")\x81}(U\x05shapeK",
        &[skipped.len() as u8],
        b"\x85U\x05dtype",
        &global("numpy", "dtype"),
        b"U\x02u1\x89\x88\x87Rub",
        &skipped,
    ]
    .concat());
    let script = |code: &str| {
        zip(&[
            entry("s/data.pkl", p2(b"}")),
            entry("s/constants.pkl", p2(b")")),
            entry("s/code/__torch__.py", code),
        ])
    };
    let of_script = p2(&[&global("torch.jit._pickle", "__builtins__.get")[..], b"U\x04eval\x85R"].concat());
    vec![
        bad(
            "number.npz",
            "an array of objects called 0",
            zip(&[entry("0", npy("\'|O\'", false, "(1,)", &evil()))]),
        ),
        bad("zip-number.zip", "a zip called 0 in a zip", zip(&[entry("0", torch(evil(), &[]))])),
        bad("number.zip", "a pickle without a header called 0", zip(&[entry("0", bare())])),
        bad("number.tar", "the same in a tar", tar(&[("0", &bare(), None)])),
        bad(
            "unreferred.pt",
            "a pickle among the storages, to which no tensor refers",
            torch(state_dict(), &[entry("m/data/7", bare())]),
        ),
        bad(
            "oldest-v7.pt",
            "PyTorch's oldest form in a tar without `ustar`",
            old_tar(&[
                ("storages", b"\x80\x02K\0.", None),
                ("tensors", b"\x80\x02K\0.", None),
                ("pickle", &evil(), None),
            ]),
        ),
        bad(
            "comment.pt",
            "an archive in the comment of another, whose own comment does not fit",
            archive_in_a_comment(torch(state_dict(), &[]), torch(evil(), &[])),
        ),
        bad(
            "nearly-script.pt",
            "an entry that ends like TorchScript's marker",
            torch(of_script.clone(), &[entry("m/xconstants.pkl", p2(b")"))]),
        ),
        bad(
            "script-elsewhere.pt",
            "TorchScript's marker in another folder",
            torch(of_script.clone(), &[entry("n/constants.pkl", p2(b")"))]),
        ),
        bad(
            "script-path.pt",
            "TorchScript whose object imports by a path of attributes",
            zip(&[entry("s/data.pkl", of_script), entry("s/constants.pkl", p2(b")"))]),
        ),
        bad("script-spaced.pt", "TorchScript with spaces", script("y = torch . save (x, \"p\")\n")),
        bad(
            "script-aten.pt",
            "TorchScript that calls aten::from_file",
            script("y = ops.aten.from_file(\"p\")\n"),
        ),
        bad("list-set.pkl", "_load_from_bytes on bytes of a list that SETITEM fills", loads(&set_later)),
        bad(
            "list-changed.pkl",
            "_load_from_bytes on bytes of a list that changes later",
            loads(&changed_later),
        ),
        bad("array-opcodes.pkl", "an array of joblib's that is opcodes to others", array.clone()),
        bad("array-opcodes.pt", "the same in PyTorch's zip", torch(array, &[])),
        bad("ignored.pkl", "bytes(text, 'ascii', 'ignore')", ignored(&global("builtins", "bytes"))),
        bad(
            "ignored-codecs.pkl",
            "_codecs.encode(text, 'ascii', 'ignore')",
            ignored(&global("_codecs", "encode")),
        ),
        bad(
            "module.pkl",
            "a module that a module of layers imports",
            p2(&global("torch.nn.modules.activation", "F")),
        ),
        bad(
            "template-parts.gguf",
            "a chat template that reaches into Python by a name in parts",
            gguf("tokenizer.chat_template", "{{ lipsum['__glo' ~ 'bals__'] }}"),
        ),
    ]
}
