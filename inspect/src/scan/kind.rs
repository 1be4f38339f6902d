//! The kinds of files and of archives' members, and what their names promise.

use std::io::{BufReader, Read};
use std::path::Path;

use super::{hdf5, unheaded};
use crate::bytes::compression::Compression;
use crate::bytes::stored::Stored;
use crate::bytes::{Reader, Source};
use crate::{format, layout};

/// Whether bytes begin so.
type Begins = fn(&[u8]) -> bool;

/// Names of files that are unpickled, or are archives of such.
pub(super) const PICKLED: [&str; 16] = [
    "pkl", "pickle", "pk", "pckl", "p", "pt", "pth", "bin", "ckpt", "joblib", "sav", "dat", "data", "npy",
    "npz", "metadata",
];
/// Those among them that members of archives have which are no weights.
const VAGUE: [&str; 5] = ["p", "sav", "dat", "data", "metadata"];
/// Containers of weights that are read.
const READ: [&str; 14] = [
    "safetensors",
    "gguf",
    "zip",
    "tar",
    "pt2",
    "nemo",
    "mar",
    "7z",
    "rar",
    "keras",
    "skops",
    "h5",
    "hdf5",
    "ptl",
];
/// Weights and models of other programs, which are not read, and so not passed over: of TensorFlow, ONNX, Torch7, Core ML, Flax,
/// ExecuTorch, MXNet, PaddlePaddle, TensorRT, XGBoost, CatBoost, ONNX Runtime, MATLAB, Caffe, Darknet and runtimes of phones.
const NOT_READ: [&str; 32] = [
    "pb",
    "pbtxt",
    "onnx",
    "t7",
    "tflite",
    "lite",
    "mlmodel",
    "msgpack",
    "pte",
    "params",
    "pdmodel",
    "pdparams",
    "pdopt",
    "pdiparams",
    "engine",
    "plan",
    "trt",
    "ubj",
    "cbm",
    "ort",
    "mat",
    "caffemodel",
    "weights",
    "mnn",
    "rknn",
    "dlc",
    "uff",
    "nnet",
    "om",
    "xmodel",
    "hef",
    "jld2",
];
/// Ends of names by which a file is compressed in a way that is not read.
const UNREAD_COMPRESSIONS: [&str; 10] =
    ["z", "br", "lz", "lzo", "sz", "snappy", "lzh", "rz", "zpaq", "lzfse"];
/// What stands in place of a file, by its first bytes.
const POINTERS: [(&[u8], &str); 2] =
    [(b"version https://git-lfs", "a Git LFS pointer"), (b"/annex/objects/", "a git-annex pointer")];
/// Containers that are not looked into, by their first bytes.
const OPAQUE: [(Begins, &str); 2] = [
    (|head| head.starts_with(b"7z\xbc\xaf\x27\x1c"), "a 7z archive"),
    (|head| head.starts_with(b"Rar!\x1a\x07"), "a RAR archive"),
];

/// The name of the kind of files that no loader of models interprets.
pub(super) const INERT: &str = "inert";
/// The name of the kind of files that are programs.
pub(super) const PROGRAM: &str = "program";
/// The name of the kind of files that are sources of Python.
pub(super) const SOURCE: &str = "python source";
/// Pictures and sounds, by the ends of their names and their first bytes.
const MEDIA: [(&[&str], &[u8]); 7] = [
    (&["png"], b"\x89PNG\r\n\x1a\n"),
    (&["jpg", "jpeg"], b"\xff\xd8\xff"),
    (&["gif"], b"GIF8"),
    (&["webp", "wav"], b"RIFF"),
    (&["flac"], b"fLaC"),
    (&["ogg"], b"OggS"),
    (&["pdf"], b"%PDF-"),
];
/// Texts for people, by the ends of their names, and by how names without an end begin.
const TEXTS: [&str; 12] =
    ["md", "rst", "txt", "csv", "tsv", "toml", "lock", "ini", "log", "css", "gitattributes", "gitignore"];
const PAPERS: [&str; 6] = ["readme", "license", "licence", "notice", "copying", "changelog"];
/// Files of SentencePiece, which are a message of Protocol Buffers.
const TOKENIZERS: [&str; 4] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm"];

/// What a file that begins with `head` stands for, if that is another file which is elsewhere.
pub(super) fn pointer(head: &[u8]) -> Option<&'static str> {
    POINTERS.iter().find(|(begins, _)| head.starts_with(begins)).map(|(_, what)| *what)
}

/// What a file that begins with `head` is if it cannot be looked into.
pub(super) fn opaque(head: &[u8]) -> Option<&'static str> {
    OPAQUE.iter().find(|(begins, _)| begins(head)).map(|(_, what)| *what)
}

/// Where the bytes begin that joblib before 0.10 compressed with zlib, if a file begins with `head` as it wrote them: two letters,
/// the length in 19 characters of which Python's `int(text, 16)` makes a number, and perhaps a space (`read_zfile` in
/// `joblib/numpy_pickle_compat.py`).
pub(super) fn old_joblib(head: &[u8]) -> Option<u64> {
    const HEADER: usize = 21;
    let length = head.strip_prefix(b"ZF").and_then(|rest| rest.get(..HEADER - 2))?;
    let hex = |byte: &u8| {
        byte.is_ascii_hexdigit() || b"_xX+-".contains(byte) || matches!(byte, b'\t'..=b'\r' | b' ')
    };
    let is_number = length.iter().all(hex) && length.iter().any(u8::is_ascii_hexdigit);
    let space = u64::from(head.get(HEADER) == Some(&b' '));
    is_number.then_some(HEADER as u64 + space)
}

/// The recognised kind of a file or an archive's member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    TorchZip,
    TorchScript,
    Zip,
    TorchLegacy,
    Tar,
    Pickle,
    Gguf,
    SafeTensors,
    Npy,
    /// By the name of the compression.
    Compressed(&'static str),
    /// JSON, YAML or a template.
    Configuration,
    Hdf5,
    /// A container that cannot be scanned.
    Opaque,
    /// Machine code, byte code or a shortcut, which no loader of models interprets.
    Program,
    /// Named like a pickle, but not one.
    NoPickle,
    /// Text, a picture or a tokenizer, which no loader of models interprets.
    Inert,
    /// Nothing by its first bytes; a zip's directory is at its end.
    Unknown,
}

impl Kind {
    /// A stable lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::TorchZip => "pytorch-zip",
            Kind::TorchScript => "torchscript",
            Kind::Zip => "zip",
            Kind::TorchLegacy => "pytorch-legacy",
            Kind::Tar => "tar",
            Kind::Pickle => "pickle",
            Kind::Gguf => "gguf",
            Kind::SafeTensors => "safetensors",
            Kind::Npy => "npy",
            Kind::Compressed(name) => name,
            Kind::Configuration => "configuration",
            Kind::Hdf5 => "hdf5",
            Kind::Opaque => "opaque",
            Kind::Program => PROGRAM,
            Kind::NoPickle => "not a pickle",
            Kind::Inert => INERT,
            Kind::Unknown => "unknown",
        }
    }
}

/// Whether a file found in a folder is worth scanning.
pub(super) fn is_candidate(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = path.stored_bytes().and_then(|file| file.take(512).read_to_end(&mut head));
    read.is_err()
        || is_named(path)
        || format::recognise(&head).is_some()
        || Compression::of(&head).is_some()
        || opaque(&head).is_some()
        || old_joblib(&head).is_some()
        || head.starts_with(hdf5::MAGIC)
        || Source::open(path).is_ok_and(|file| {
            let vague = Compression::perhaps(&head).filter(|found| found.is_vague);
            vague.is_some_and(|found| {
                found.begins_well(&mut BufReader::new(Reader { source: file.data(), at: 0 }))
            }) || unheaded::acts(file.data()).unwrap_or(true)
        })
}

/// Whether the file is named as checkpoints, pickles, archives and what a distributed checkpoint consists of are.
pub(super) fn is_named(path: &Path) -> bool {
    promises(&path.to_string_lossy()) || layout::is_distributed(path)
}

/// Whether a file called `name` is weights, a model or a pickle, or an archive or a compressed form of such.
fn promises(name: &str) -> bool {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let (stem, extension) = last.rsplit_once('.').unwrap_or((last, ""));
    let extension = extension.to_lowercase();
    let known = |extension: &str| {
        PICKLED.contains(&extension) || READ.contains(&extension) || NOT_READ.contains(&extension)
    };
    let extension = extension.as_str();
    known(extension)
        || Compression::promised_by(extension).is_some()
        || UNREAD_COMPRESSIONS.contains(&extension) && promises(stem)
        // TensorFlow's `model.ckpt.data-00000-of-00001`.
        || extension.starts_with("data-") && extension.contains("-of-")
}

/// Whether a member of an archive that is called `name` promises weights or a pickle.
pub(super) fn member_promises(name: &str) -> bool {
    let extension = extension(name);
    match name.rsplit_once('.') {
        Some((stem, _)) if Compression::promised_by(&extension).is_some() => member_promises(stem),
        _ => promises(name) && !VAGUE.contains(&extension.as_str()),
    }
}

/// The last part of the name behind a dot, in lower case.
pub(super) fn extension(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    last.rsplit_once('.').map(|(_, e)| e.to_lowercase()).unwrap_or_default()
}

/// Whether `name` is that of a text for people, or of a list of tokens.
pub(super) fn names_text(name: &str) -> bool {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name).to_lowercase();
    TEXTS.contains(&extension(name).as_str()) || PAPERS.iter().any(|paper| last.starts_with(paper))
}

/// Whether the file called `name`, of which `head` is the beginning and which no loader takes for anything, is known not to
/// be one: a picture, a sound, a tokenizer.
pub(super) fn is_inert(name: &str, head: &[u8]) -> bool {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let extension = extension(name);
    MEDIA.iter().any(|(ends, magic)| ends.contains(&extension.as_str()) && head.starts_with(magic))
        || TOKENIZERS.contains(&last) && head.first() == Some(&b'\n')
}
