//! Archives, compressed files, values and configurations that a loader reads further than it seems, and what only looks as if it
//! reached further than it does.

use ckpt_kit::pickle::global;
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{entry, zip};

use super::configurations::lzma;
use super::{File, bad, bare, evil, good, p2, zlib};

const BLOCK: usize = 512;

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(bytes.len().next_multiple_of(BLOCK), 0);
    out
}

/// The header of a member of `kind` that says it has `size` bytes.
fn header(name: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut header = tar(&[(name, b"", None)])[..BLOCK].to_vec();
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[156] = kind;
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A record of an extended header.
fn record(key: &str, value: &str) -> String {
    let body = format!(" {key}={value}\n");
    let len = (1..).find(|len| len.to_string().len() + body.len() == *len).unwrap();
    format!("{len}{body}")
}

fn extended(kind: u8, records: &str) -> Vec<u8> {
    [header("PaxHeader", kind, records.len()), padded(records.as_bytes())].concat()
}

/// PyTorch's oldest form without the end of the archive.
fn oldest() -> Vec<u8> {
    let mut archive = tar(&[
        ("storages", b"\x80\x02K\0.\x80\x02].", None),
        ("tensors", b"\x80\x02K\0.", None),
        ("pickle", &evil(), None),
    ]);
    archive.truncate(archive.len() - 2 * BLOCK);
    archive
}

/// An archive whose only member holds another, and has one block to readers to whom the headers `before` it say so.
fn within_a_member(before: &[u8]) -> Vec<u8> {
    let hidden = oldest();
    let member = header("weights.bin", b'0', BLOCK + hidden.len());
    [before, &member, &[1; BLOCK], &hidden, &[0; 2 * BLOCK]].concat()
}

/// An archive in the data of a member of `kind`.
fn in_the_data_of(kind: u8) -> Vec<u8> {
    let hidden = oldest();
    let first = [header("readme.txt", b'0', 2), padded(b"hi")].concat();
    [&first, &header("folder", kind, hidden.len()), &hidden[..], &[0; 2 * BLOCK]].concat()
}

/// `header` as GNU writes it into incremental archives, with times where others have the folder of a name.
fn dated(mut header: Vec<u8>) -> Vec<u8> {
    header[257..265].copy_from_slice(b"ustar  \0");
    header[345..369].copy_from_slice(b"15303266657\x0015303266640\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn tars() -> Vec<File> {
    let one = record("size", "512");
    let whole = (BLOCK + oldest().len()).to_string();
    vec![
        bad(
            "folder-of-data.pt",
            "a tar in the data of a folder, which Python does not skip",
            in_the_data_of(b'5'),
        ),
        bad("pipe-of-data.pt", "the same of a pipe", in_the_data_of(b'6')),
        bad(
            "size-of-sun.pt",
            "a size in an extended header of Solaris",
            within_a_member(&extended(b'X', &one)),
        ),
        bad(
            "size-after-lines.pt",
            "a size in a record after one of two lines",
            within_a_member(&extended(b'x', &(record("comment", "a\nb") + &one))),
        ),
        bad(
            "size-twice.pt",
            "two records of a size, of which the last counts",
            within_a_member(&extended(b'x', &(record("size", &whole) + &one))),
        ),
        bad(
            "size-spaced.pt",
            "a size with a space, which Python reads",
            within_a_member(&extended(b'x', &record("size", " 512"))),
        ),
        bad(
            "size-underscored.pt",
            "a size with an underscore, which Python reads",
            within_a_member(&extended(b'x', &record("size", "5_12"))),
        ),
        bad("size-of-all.pt", "a size for all members, over what follows them", {
            let junk = [&[1; 100][..], &bare()].concat();
            let rest = [header("junk.bin", b'0', junk.len()), padded(&junk)].concat();
            let first = [header("storages", b'0', BLOCK), vec![1; BLOCK]].concat();
            [extended(b'g', &record("size", "4096")), first, rest, vec![0; 4096]].concat()
        }),
        bad("name-of-all.pt", "a name for all members", {
            let member = [header("a", b'0', evil().len()), padded(&evil())].concat();
            [extended(b'g', &record("path", "pickle")), member, vec![0; 2 * BLOCK]].concat()
        }),
        good("incremental.tar", "an incremental archive of GNU's", {
            let listing = b"Yreadme.txt\0\0";
            let folder = [dated(header("folder/", b'D', listing.len())), padded(listing)].concat();
            let file = [dated(header("folder/readme.txt", b'0', 2)), padded(b"hi")].concat();
            [folder, file, vec![0; 2 * BLOCK]].concat()
        }),
        bad("incremental-evil.tar", "a pickle in an incremental archive of GNU's", {
            let file = [dated(header("folder/data.pkl", b'0', evil().len())), padded(&evil())].concat();
            [file, vec![0; 2 * BLOCK]].concat()
        }),
        good("extended.tar", "a tar with extended headers and a long name", {
            let records =
                record("path", &"long/".repeat(30)) + &record("mtime", "1.5") + &record("size", "2");
            let comment = extended(b'g', &record("comment", "0123abcd"));
            let long = [header("././@LongLink", b'L', 131), padded("n".repeat(130).as_bytes())].concat();
            let first = [extended(b'x', &records), header("short", b'0', 2), padded(b"hi")].concat();
            let second = [long, header(&"n".repeat(100), b'0', 2), padded(b"ho")].concat();
            [comment, header("folder/", b'5', 0), first, second, vec![0; 2 * BLOCK]].concat()
        }),
    ]
}

/// HDF5 with `bytes` after its superblock.
pub(super) fn hdf5(bytes: &[u8]) -> Vec<u8> {
    [&b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0\x04\0\x10\0"[..], &[0; 76], bytes, &[0; 64]].concat()
}

/// An attribute whose value is the text `value`, as version 2 of its message writes it.
fn attribute(value: &[u8]) -> Vec<u8> {
    let size = (value.len() as u32).to_le_bytes();
    [&b"\x02\0\x05\0\x08\0\x04\0info\0\x13\0\0\0"[..], &size, b"\x02\0\0\0", value].concat()
}

/// A collection of the global heap with one object.
pub(super) fn heap(object: &[u8]) -> Vec<u8> {
    let [len, size] = [object.len() as u64, 4096].map(u64::to_le_bytes);
    [&b"GCOL\x01\0\0\0"[..], &size, b"\x01\0\x01\0\0\0\0\0", &len, object, &[0; 24]].concat()
}

fn values() -> Vec<File> {
    const EMPTY: &[u8] = b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x83\xff\xfb\xff\xff\xc0\0\0\0";
    vec![
        bad(
            "attribute.h5",
            "an attribute in HDF5 that is a pickle without a header",
            hdf5(&attribute(&bare())),
        ),
        bad("attribute-p2.h5", "the same with a header", hdf5(&attribute(&evil()))),
        bad("objects.h5", "an object in the heap of HDF5 that is a pickle", hdf5(&heap(&bare()))),
        bad(
            "compressed-links.h5",
            "links in HDF5 that are compressed",
            hdf5(b"FRHP\0\x07\0\x1a\0\x02\0\x10\0\0\0\0"),
        ),
        good(
            "attributes.h5",
            "attributes in HDF5 that are pickles of a dict, and texts",
            hdf5(&[attribute(b"(dp0\nS'x'\np1\nI1\ns."), attribute(b"cat\ndog\n"), heap(&p2(b"}"))].concat()),
        ),
        bad(
            "nothing-first.joblib",
            "two streams of LZMA, the first of nothing",
            [EMPTY, &lzma(&evil())].concat(),
        ),
        bad("nothing-first.model", "the same under another name", [EMPTY, &lzma(&evil())].concat()),
        bad("old.dump", "compressed as joblib did at first, its size without 0x", {
            let size = format!("{:<19x}", evil().len());
            [b"ZF", size.as_bytes(), &zlib(&evil())].concat()
        }),
        good("old.bin", "text that begins like that", *b"ZFS is a file system\n"),
    ]
}

fn named() -> Vec<File> {
    let lookup =
        r#"{"module": "keras.layers", "class_name": "IndexLookup", "config": {"vocabulary": "/etc/passwd"}}"#;
    vec![
        bad(
            "hyperparams.yaml",
            "a tag of SpeechBrain's that calls os.system",
            *b"x: !apply:os.system [id]\n",
        ),
        bad("hypernames.yaml", "one that makes a class", *b"model: !new:mine.Model\n  size: 3\n"),
        bad("included.yaml", "one that reads another file", *b"model: !include:../other.yaml\n"),
        bad(
            "inference.json",
            "a Python expression for MONAI",
            *br#"{"imports": ["$import os"], "x": "$open('x', 'w').close()"}"#,
        ),
        bad("train.yaml", "the same in YAML", *b"imports:\n- $import os\nx: $os.system('id')\n"),
        bad(
            "recipe.yaml",
            "a component of torchtune that is os.system",
            *b"model:\n  _component_: os.system\n  command: id\n",
        ),
        bad(
            "MLmodel",
            "a model of MLflow that a module beside it loads",
            *b"flavors:\n  python_function:\n    loader_module: mine\n    code: code\n",
        ),
        bad(
            "no-number.json",
            "a component in a file of its own, where a number is none",
            *br#"{"_diffusers_version": "0.30.0", "x": NaN, "unet": ["my_unet", "Unet"]}"#,
        ),
        bad(
            "large-number.json",
            "the same where one is too large",
            *br#"{"_diffusers_version": "0.30.0", "x": 1e999, "unet": ["my_unet", "Unet"]}"#,
        ),
        bad(
            "half.json",
            "the same where a text has half a pair",
            *br#"{"_diffusers_version": "0.30.0", "x": "\ud800", "unet": ["my_unet", "Unet"]}"#,
        ),
        bad(
            "kernel-mapping.json",
            "a kernel that transformers fetches from elsewhere",
            *br#"{"kernel_config": {"kernel_mapping": {"RMSNorm": "owner/kernel:RMSNorm"}}}"#,
        ),
        bad("lookup.keras", "a layer of Keras that reads a file", zip(&[entry("config.json", lookup)])),
        good(
            "numbers.json",
            "numbers that JSON has not",
            *br#"{"a": NaN, "b": [-Infinity, 1e999], "type": "llama"}"#,
        ),
        good(
            "prices.yaml",
            "texts with a dollar",
            *b"a: $5 (about)\nb: ${oc.env:HOME}\nc: $HOME/x\nd: !ref <a>\n",
        ),
        good(
            "kernels-plain.json",
            "a kernel of transformers' own",
            *br#"{"kernel_config": {"kernel_mapping": {"RMSNorm": "kernels-community/rms:RMSNorm"}}}"#,
        ),
    ]
}

/// What is harmless with its arguments, and what is not with others.
fn judged() -> Vec<File> {
    let called = |module: &str, name: &str, arguments: &[u8]| {
        p2(&[&global(module, name)[..], arguments, b"R"].concat())
    };
    let cyclic =
        [&global("__builtin__", "getattr")[..], &global("torch.optim.lr_scheduler", "CyclicLR")].concat();
    let scale =
        |name: &str| p2(&[&cyclic[..], b"U", &[name.len() as u8], name.as_bytes(), b"\x86R"].concat());
    let array = [
        &global("numpy.core.multiarray", "_reconstruct")[..],
        &global("numpy", "ndarray"),
        b"K\0\x85U\x01b\x87(K\x01K\x01\x85",
        &global("numpy", "dtype"),
        b"U\x02u1\x89\x88\x87R\x89U\x01at\x87",
    ]
    .concat();
    let functions = [
        ("math", "sqrt"),
        ("numpy", "mean"),
        ("torch.nn.init", "xavier_uniform_"),
        ("torch.distributions.normal", "Normal"),
        ("string", "Template"),
    ];
    let functions: Vec<u8> = functions.iter().flat_map(|(module, name)| global(module, name)).collect();
    vec![
        good("type-of-none.pkl", "type(None)", called("builtins", "type", b"N\x85")),
        bad("type-made.pkl", "type of three arguments", called("builtins", "type", b"U\x01x)}\x87")),
        good("item.pkl", "operator.itemgetter(1)", called("operator", "itemgetter", b"K\x01\x85")),
        bad("item-handed.pkl", "operator.itemgetter for something else to call", {
            p2(&[&global("functools", "partial")[..], &global("operator", "itemgetter"), b"K\x01\x86R"]
                .concat())
        }),
        good("logger.pkl", "a logger, by its name", called("logging", "getLogger", b"U\x01x\x85")),
        good("status.pkl", "members of enumerations", {
            let signal = [&global("signal", "Signals")[..], b"K\x02\x85R\x86"].concat();
            p2(&[&global("http", "HTTPStatus")[..], b"K\xc8\x85R", &signal].concat())
        }),
        good("cyclic.pkl", "a scale of PyTorch's cyclic rates", scale("_triangular_scale_fn")),
        bad("cyclic-other.pkl", "another attribute of them", scale("__init_subclass__")),
        good("dill-array.pkl", "an array as dill pickles it", called("dill._dill", "_create_array", &array)),
        bad("dill-called.pkl", "a call by the same function of dill's", {
            called(
                "dill._dill",
                "_create_array",
                &[&global("posix", "system")[..], b"U\x02id\x85)\x87"].concat(),
            )
        }),
        good("functions.pkl", "functions that compute", p2(&[b"(", &functions[..], b"t"].concat())),
        good("warning.pkl", "a warning", called("builtins", "UserWarning", b"U\x01x\x85")),
    ]
}

pub(super) fn misread() -> Vec<File> {
    [tars(), values(), named(), judged()].into_iter().flatten().collect()
}
