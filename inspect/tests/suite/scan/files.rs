//! Files to scan, malicious and benign, assembled opcode by opcode and header by header. Nothing here was ever
//! unpickled, and what the malicious ones would do is harmless: they run `id`.

mod benign;
mod configurations;
mod containers;
mod forged;
mod harmless;
mod hidden;
mod loaders;
mod made;
mod masked;
mod misread;
mod opcodes;

use ckpt_kit::gguf::Gguf;
use ckpt_kit::pickle::{global, pickle, short_text};
use ckpt_kit::tar::tar;
use ckpt_kit::torch::{MAGIC, legacy_of};
use ckpt_kit::zip::{Entry, entry, zip};

use benign::benign;
use configurations::{configurations, some_readers};
use containers::{containers, safetensors_and_pickle, several_readings};
use forged::forged;
use harmless::{handed_on, taken_for_harmless};
use hidden::{hidden, shown};
use loaders::loaders;
use made::made;
use masked::masked;
use misread::misread;
use opcodes::{broken, imports, opcodes};

/// A file of the set.
pub struct File {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// What it tries, or its contents.
    pub about: &'static str,
    pub malicious: bool,
}

fn bad(name: &'static str, about: &'static str, bytes: impl Into<Vec<u8>>) -> File {
    File { name, about, bytes: bytes.into(), malicious: true }
}

fn good(name: &'static str, about: &'static str, bytes: impl Into<Vec<u8>>) -> File {
    File { name, about, bytes: bytes.into(), malicious: false }
}

/// Protocol 4: `module.name(argument)`, the import by STACK_GLOBAL.
fn call(module: &str, name: &str, argument: &str) -> Vec<u8> {
    [&b"\x80\x04"[..], &short_text(module), &short_text(name), b"\x93", &short_text(argument), b"\x85R."]
        .concat()
}

/// Protocol 2: `os.system('id')` without header or STOP.
fn payload() -> Vec<u8> {
    [&global("posix", "system")[..], b"U\x02id\x85R"].concat()
}

/// Protocol 2: the pickle whose body is `body`.
fn p2(body: &[u8]) -> Vec<u8> {
    pickle(2, body)
}

fn evil() -> Vec<u8> {
    p2(&payload())
}

/// A state dict of one tensor on storage 0, protocol 2, as `torch.save` writes it.
fn state_dict() -> Vec<u8> {
    let mut out = b"\x80\x02}q\0X\x01\0\0\0wq\x01".to_vec();
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storageq\x03ctorch\nFloatStorage\nq\x04X\x01\0\0\x000q\x05X\x03\0\0\0cpuq\x06K\x02tq\x07QK\0K\x02\x85q\x08K\x01\x85q\x09\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.");
    out
}

/// `bytes` with `new` in the only place of `old`.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|part| part == old).unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

/// A PyTorch file around `object`.
fn torch(object: Vec<u8>, more: &[Entry]) -> Vec<u8> {
    let mut entries = vec![
        entry("m/data.pkl", object),
        entry("m/byteorder", *b"little"),
        entry("m/data/0", [0, 0, 128, 63, 0, 0, 0, 64]),
        entry("m/version", *b"3\n"),
    ];
    entries.extend_from_slice(more);
    zip(&entries)
}

/// A legacy file: magic number, protocol, `system` info, `object`, no storage keys.
fn legacy(magic: &[u8], system: &[u8], object: &[u8]) -> Vec<u8> {
    let file = legacy_of(system, object, b"\x80\x02].");
    [magic, &file[MAGIC.len()..]].concat()
}

/// An array of numbers as joblib pickles it: the wrapper, its state, one byte that says how many align, the elements.
fn joblib(elements: &[u8]) -> Vec<u8> {
    let mut out = joblib_array("f8", elements.len() / 8);
    out.extend([3, 0xff, 0xff, 0xff]);
    out.extend(elements);
    out.extend(b"s");
    out
}

/// An array of objects as joblib pickles it: the objects are the pickle `objects`.
fn joblib_objects(objects: &[u8]) -> Vec<u8> {
    [&joblib_array("O8", 1)[..], objects, b"s"].concat()
}

/// An array of joblib whose wrapper comes from `make`, and whose bytes hide the call after them from readers that take
/// them for opcodes.
fn joblib_swallows(make: &[u8], shape: &[u8], size: i32) -> Vec<u8> {
    let call = [&b"0"[..], &bare()].concat();
    [
        &b"\x80\x04"[..],
        make,
        b"}(",
        &short_text("shape"),
        shape,
        &short_text("dtype"),
        &short_text("numpy"),
        &short_text("dtype"),
        b"\x93",
        &short_text("V2"),
        b"\x89\x88\x87R(K\x03",
        &short_text("|"),
        b"NNNJ",
        &size.to_le_bytes(),
        b"K\x01K\0tb",
        b"ub",
        &[b'C', call.len() as u8],
        &call,
        b"0.",
    ]
    .concat()
}

fn joblib_array(dtype: &str, elements: usize) -> Vec<u8> {
    let mut out = b"\x80\x04}".to_vec();
    out.extend(short_text("weights"));
    out.extend([short_text("joblib.numpy_pickle"), short_text("NumpyArrayWrapper")].concat());
    out.extend(b"\x93)\x81}(");
    out.extend([short_text("subclass"), short_text("numpy"), short_text("ndarray"), vec![0x93]].concat());
    out.extend([&short_text("shape")[..], b"K", &[elements as u8], b"\x85"].concat());
    out.extend([short_text("order"), short_text("C")].concat());
    out.extend([short_text("dtype"), short_text("numpy"), short_text("dtype"), vec![0x93]].concat());
    out.extend(
        [
            &short_text(dtype)[..],
            b"\x89\x88\x87R(K\x03",
            &short_text("<"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        ]
        .concat(),
    );
    out.extend([&short_text("allow_mmap")[..], b"\x88"].concat());
    out.extend([&short_text("numpy_array_alignment_bytes")[..], b"K\x10"].concat());
    out.extend(b"ub");
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar whose headers are as old as version 7 of Unix: nothing after the link's name.
fn old_tar(entries: &[ckpt_kit::tar::Entry<'_>]) -> Vec<u8> {
    let mut bytes = tar(entries);
    for header in bytes.chunks_exact_mut(512).filter(|header| &header[257..262] == b"ustar") {
        header[257..].fill(0);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// Two archives: `second` is the comment of `first`, and announces a comment that does not fit.
fn archive_in_a_comment(mut first: Vec<u8>, mut second: Vec<u8>) -> Vec<u8> {
    let (by, end) = (first.len() as u32, first.len() - 2);
    first[end..].copy_from_slice(&(second.len() as u16).to_le_bytes());
    let places = |signature: &[u8]| -> Vec<usize> {
        second.windows(4).enumerate().filter(|(_, w)| *w == signature).map(|(at, _)| at).collect()
    };
    let mut offsets: Vec<usize> = places(b"PK\x01\x02").iter().map(|at| at + 42).collect();
    offsets.push(places(b"PK\x05\x06")[0] + 16);
    for at in offsets {
        let offset = u32::from_le_bytes(second[at..at + 4].try_into().unwrap()) + by;
        second[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }
    let end = second.len() - 2;
    second[end] = 1;
    [first, second].concat()
}

/// A GGUF file of one string key and no tensors.
pub fn gguf(key: &str, value: &str) -> Vec<u8> {
    Gguf::new().key_text(key, value).bytes()
}

/// Those among the hidden ones that are known to run code.
pub fn dangerous() -> Vec<File> {
    const UNKNOWN: [&str; 10] = [
        "made-in-list.yaml",
        "made-by-name.yaml",
        "made-in-template.yaml",
        "pipeline-itself.yaml",
        "chunks.zip",
        "dashed-modules.json",
        "given.json",
        "linked-to-nothing.tar",
        "classes.jar",
        "cut-text.pt",
    ];
    let mut files = hidden();
    files.retain(|file| !UNKNOWN.contains(&file.name));
    files
}

/// Every file of the set.
pub fn all() -> Vec<File> {
    let mut files = opcodes();
    files.extend(imports());
    files.extend(broken());
    files.extend(handed_on());
    files.extend(containers());
    files.extend(several_readings());
    files.extend(taken_for_harmless());
    files.extend(configurations());
    files.extend(some_readers());
    files.extend(forged());
    files.extend(made());
    files.extend(misread());
    files.extend(loaders());
    files.extend(hidden());
    files.extend(shown());
    files.extend(masked());
    files.extend(benign());
    files
}

/// Protocol 3: `body` without header or STOP.
fn p3(body: &[&[u8]]) -> Vec<u8> {
    pickle(3, &body.concat())
}

/// A pickle of protocol 0, which has no magic bytes.
fn bare() -> Vec<u8> {
    b"cposix\nsystem\n(S'id'\ntR.".to_vec()
}

/// `builtins.bytes((…))` or the like.
fn made_of_integers(class: &str, bytes: &[u8]) -> Vec<u8> {
    let integers: Vec<u8> = bytes.iter().flat_map(|&byte| [b'K', byte]).collect();
    [&global("builtins", class)[..], b"(", &integers, b"t\x85R"].concat()
}

/// `_codecs.encode(text, 'latin1')`.
fn encoded(bytes: &[u8]) -> Vec<u8> {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let length = (text.len() as u32).to_le_bytes();
    [&global("_codecs", "encode")[..], b"X", &length, text.as_bytes(), b"X\x06\0\0\0latin1\x86R"].concat()
}

/// `torch.storage._load_from_bytes` on what `bytes` makes.
fn loads(bytes: &[u8]) -> Vec<u8> {
    p3(&[&global("torch.storage", "_load_from_bytes"), bytes, b"\x85R"])
}

/// A legacy file of one tensor of two float32.
fn legacy_of_one_storage() -> Vec<u8> {
    let head = [MAGIC, b"\x80\x02M\xe9\x03.", &p2(b"}")].concat();
    let storage = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02Nt";
    let object =
        [&global("torch._utils", "_rebuild_tensor_v2")[..], b"((", storage, b"QK\0K\x02\x85K\x01\x85\x89NtR"]
            .concat();
    let keys = p2(b"]X\x01\0\0\x000a");
    [&head[..], &p2(&object), &keys, &2u64.to_le_bytes(), &[0; 8]].concat()
}
