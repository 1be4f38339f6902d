//! Containers: which ones exist, how each is recognised, and what its reader returns.
//!
//! A new one is a file and a line in [`FORMATS`].

pub(crate) mod dtype;
pub mod ggml;
pub mod gguf;
pub(crate) mod instance;
pub mod npy;
mod npz;
pub mod packing;
pub mod quantized;
pub mod safetensors;
pub(crate) mod tensor;
pub mod torch;
mod torch_export;
pub(crate) mod torch_legacy;
mod torch_tar;
pub(crate) mod torch_zip;

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::compression::Compression;
use crate::bytes::stored::Stored;
use crate::bytes::{ByteSource, Source};
use crate::metadata::Value;
use crate::pickle::Pickle;
use crate::tensor::TensorInfo;
use crate::torch::TorchObject;
use crate::{Damage, DamageKind, Error, ErrorKind, Notice, NoticeKind, Result};

/// One kind of container.
pub(crate) struct Container {
    /// The kind, for code that does more than read its tensors.
    pub family: Family,
    /// Extensions of such files.
    pub extensions: &'static [(&'static str, Extension)],
    /// Whether a file begins like one, by its first [`HEAD`] bytes.
    pub recognises: fn(&[u8]) -> bool,
    /// Whether a file is of this kind although its beginning is of no known format.
    pub recognises_later: Option<fn(&dyn ByteSource) -> Result<bool>>,
    /// Reads what it contains.
    pub read: fn(&Arc<Source>) -> Result<Contents>,
}

/// What an extension is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    /// Only for checkpoints.
    Own,
    /// For checkpoints, and for many other things.
    Shared,
}

impl Extension {
    /// The use of the extension of `path`, if checkpoints have it.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_string_lossy();
        let mut all = FORMATS.iter().flat_map(|container| container.extensions);
        all.find(|(known, _)| extension.eq_ignore_ascii_case(known)).map(|(_, whose)| *whose)
    }
}

/// The kinds of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Zip,
    Gguf,
    SafeTensors,
    TorchLegacy,
    Tar,
    Pickle,
    Npy,
    Npz,
}

impl Family {
    /// The usual name of files of this kind.
    fn known_as(self) -> &'static str {
        match self {
            Family::Zip | Family::TorchLegacy | Family::Tar | Family::Pickle => "PyTorch",
            Family::Gguf => "GGUF",
            Family::SafeTensors => "SafeTensors",
            Family::Npy | Family::Npz => "NumPy",
        }
    }
}

/// Every container that is read, in the order in which they are tried.
pub(crate) static FORMATS: [Container; 8] = [
    npz::CONTAINER,
    torch_zip::CONTAINER,
    gguf::CONTAINER,
    safetensors::CONTAINER,
    torch_legacy::CONTAINER,
    torch_tar::CONTAINER,
    npy::CONTAINER,
    torch_legacy::BARE,
];

/// The number of a file's first bytes that are looked at.
pub(crate) const HEAD: u64 = 512;

/// The container that begins with `head`.
pub(crate) fn recognise(head: &[u8]) -> Option<&'static Container> {
    candidates(head).next()
}

/// Every container that begins with `head`: some files are of several kinds.
pub(crate) fn candidates(head: &[u8]) -> impl Iterator<Item = &'static Container> {
    let head = &head[..head.len().min(HEAD as usize)];
    FORMATS.iter().filter(move |container| (container.recognises)(head))
}

/// Whether `path` is a file that begins like a checkpoint. A single array does not, though it can be opened: folders
/// hold many that are data.
pub fn recognises(path: &Path) -> bool {
    family_of(path).is_some_and(|family| family != Family::Npy)
}

/// Whether the file at `path` begins like an archive or a pickle, which hold checkpoints and anything else.
pub(crate) fn may_hold_anything(path: &Path) -> bool {
    family_of(path).is_some_and(|family| {
        matches!(family, Family::Zip | Family::Npz | Family::Tar | Family::Pickle | Family::TorchLegacy)
    })
}

/// Whether `path` is a file named like a single array, and begins like one.
pub(crate) fn is_array(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) && family_of(path) == Some(Family::Npy)
}

/// The kind of container that the file at `path` begins like.
fn family_of(path: &Path) -> Option<Family> {
    use std::io::Read;
    let mut head = Vec::new();
    path.stored_bytes().and_then(|f| f.take(HEAD).read_to_end(&mut head)).ok()?;
    recognise(&head).map(|container| container.family)
}

/// The contents of the file `source`.
pub(crate) fn read(source: &Arc<Source>) -> Result<Contents> {
    let data = source.data();
    if let Some(container) = recognise(&data.window(0, HEAD)?) {
        return (container.read)(source);
    }
    for container in &FORMATS {
        if let Some(recognises) = container.recognises_later
            && recognises(data)?
        {
            return (container.read)(source);
        }
    }
    Err(unrecognised(data)?)
}

/// The container of a checkpoint. Records contain its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Format {
    /// PyTorch's own.
    #[default]
    TorchZip,
    TorchScript,
    TorchLegacy,
    TorchTar,
    Pickle,
    SafeTensors,
    Npy,
    Npz,
    /// Files of several ranks, as `torch.distributed` divides tensors.
    TorchDistributed,
    /// A folder of DeepSpeed.
    DeepSpeed,
    /// No file: tensors of a program.
    Memory,
    Gguf {
        version: u32,
        big_endian: bool,
    },
}

macro_rules! named {
    ($($format:ident: $word:literal;)*) => {
        impl Format {
            /// Every format of single files, including both versions of GGUF in both byte orders.
            pub fn all() -> impl Iterator<Item = Format> {
                let orders = |version| [false, true].map(|big_endian| Format::Gguf { version, big_endian });
                let others = [Format::TorchDistributed, Format::DeepSpeed, Format::Memory];
                let files = [$(Format::$format),*].into_iter().filter(move |format| !others.contains(format));
                files.chain([2, 3].into_iter().flat_map(orders))
            }

            /// A stable lower-case name.
            pub fn name(self) -> String {
                match self {
                    $(Format::$format => $word.into(),)*
                    Format::Gguf { version, big_endian } => {
                        format!("gguf-v{version}{}", if big_endian { BIG_ENDIAN } else { "" })
                    }
                }
            }
        }

        /// A format by its [`Format::name`].
        impl FromStr for Format {
            type Err = String;

            fn from_str(name: &str) -> std::result::Result<Self, String> {
                let gguf = || {
                    let version = name.strip_prefix("gguf-v")?;
                    let (version, big_endian) = match version.strip_suffix(BIG_ENDIAN) {
                        Some(version) => (version, true),
                        None => (version, false),
                    };
                    Some(Format::Gguf { version: version.parse().ok()?, big_endian })
                };
                match name {
                    $($word => Ok(Format::$format),)*
                    _ => gguf().ok_or_else(|| format!("`{}` is not a format", name.escape_debug())),
                }
            }
        }
    };
}

/// The suffix in the name of a big-endian GGUF format.
const BIG_ENDIAN: &str = "-big-endian";

named! {
    TorchZip: "pytorch-zip";
    TorchScript: "torchscript";
    TorchLegacy: "pytorch-legacy";
    TorchTar: "pytorch-tar";
    Pickle: "pickle";
    SafeTensors: "safetensors";
    Npy: "npy";
    Npz: "npz";
    TorchDistributed: "pytorch-distributed";
    DeepSpeed: "deepspeed";
    Memory: "memory";
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The contents of one file, from its format's reader.
#[derive(Debug)]
pub(crate) struct Contents {
    pub format: Format,
    pub tensors: Vec<TensorInfo>,
    pub metadata: Value,
    pub globals: Vec<String>,
    pub notices: Vec<Notice>,
    pub faults: Vec<Damage>,
    /// Every `torch.Size` by the keys that lead to it, in the file's order, which plain values do not keep.
    pub sizes: Vec<(String, Vec<usize>)>,
    /// What an archive of PyTorch calls its own folder: the name of the file that it was saved as, without its ending.
    pub root: Option<String>,
    /// Whether the listing of the tensors fails its checksum.
    pub listing_damaged: bool,
}

impl Contents {
    pub fn new(format: Format) -> Self {
        Contents {
            format,
            tensors: Vec::new(),
            metadata: Value::Dict(Default::default()),
            globals: Vec::new(),
            notices: Vec::new(),
            faults: Vec::new(),
            sizes: Vec::new(),
            root: None,
            listing_damaged: false,
        }
    }

    /// Adds what a pickle of PyTorch holds beside its tensors.
    pub fn add_plain(&mut self, object: TorchObject) {
        self.metadata = object.metadata;
        self.notices.extend(object.notices);
        self.sizes.extend(object.sizes);
    }

    /// Keeps the first few faults and notices, and counts the rest: a hostile listing may cause any number of them.
    pub fn tell_first(&mut self) {
        const LISTED: usize = 8;
        if let Some(more) = self.faults.len().checked_sub(LISTED).filter(|more| *more > 0) {
            self.faults.truncate(LISTED);
            self.faults.push(Damage::new(DamageKind::Other, format!("and {more} more such faults")));
        }
        if let Some(more) = self.notices.len().checked_sub(LISTED).filter(|more| *more > 0) {
            self.notices.truncate(LISTED);
            self.notices.push(Notice::new(NoticeKind::Other, format!("and {more} more such warnings")));
        }
    }

    pub fn add_globals(&mut self, pickle: &Pickle<'_>) {
        add_new(&mut self.globals, pickle.globals.iter().map(|g| format!("{}.{}", g.module, g.name)));
    }
}

/// Adds the items of `more` that are not in `list` yet.
pub(crate) fn add_new<T: Clone + Eq + Hash>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    let mut known: HashSet<T> = list.iter().cloned().collect();
    list.extend(more.into_iter().filter(|item| known.insert(item.clone())));
}

/// What to do about weights of Keras.
pub(crate) const FROM_KERAS: &str = "load it with Keras and save the arrays: safetensors.numpy.save_file({w.path: w.numpy() for w in keras.saving.load_model(FILE).weights}, \"model.safetensors\")";

/// First bytes of files that are mistaken for checkpoints, what they are, and what to do.
const OTHERS: [(&[u8], &str, &str); 2] = [
    (b"\x89HDF", "is an HDF5 file, such as Keras writes (.h5, .weights.h5), which is not read", FROM_KERAS),
    (b"{", "is JSON, not a checkpoint", "a shard index ends in .index.json and contains a `weight_map`"),
];

/// The error for a file in none of the [`FORMATS`].
fn unrecognised(data: &dyn ByteSource) -> Result<Error> {
    let error = |what: &str| Error::new(ErrorKind::Unrecognised, what);
    if data.len() == 0 {
        return Ok(error("is empty")
            .because(DamageKind::Empty)
            .hint("the program that wrote it died before its first byte, or the disk was full"));
    }
    if data.is_zero()? {
        return Ok(error("contains only zero bytes")
            .because(DamageKind::ZeroBytes)
            .hint("the file was allocated and never written"));
    }
    Ok(mistaken(&data.window(0, HEAD)?))
}

/// The error that says what a file that begins with `bytes` is instead.
fn mistaken(bytes: &[u8]) -> Error {
    let error = |what: &str| Error::new(ErrorKind::Unrecognised, what);
    if bytes.starts_with(b"version https://git-lfs") {
        return error("is a Git LFS pointer, not the checkpoint itself").hint("fetch it with `git lfs pull`");
    }
    if bytes.trim_ascii_start().starts_with(b"<") {
        return error("is HTML or XML, not a checkpoint").hint("the download was probably an error page");
    }
    if let Some((_, what, hint)) = OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return error(what).hint(*hint);
    }
    if let Some(Compression { name, undone_by, .. }) = Compression::of(bytes) {
        return error(&format!("is compressed with {name}"))
            .hint(format!("decompress it first ({undone_by})"));
    }
    if let Some(head) = bytes.get(..9).filter(|head| head[8] == b'{') {
        let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        return error("looks like a SafeTensors file, but its header's length is impossible").hint(format!(
            "its first eight bytes give a header of {length} bytes, and at most 100 MB are allowed"
        ));
    }
    let mut kinds: Vec<&str> = Vec::new();
    for container in FORMATS.iter().rev() {
        let kind = container.family.known_as();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let last = kinds.pop().unwrap_or_default();
    error(&format!("is not a {} or {last} file", kinds.join(", ")))
        .hint("formats are recognised by content; the file's extension does not matter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_by_its_name() {
        let words = ["pytorch-zip", "torchscript", "pytorch-legacy", "pytorch-tar", "pickle", "safetensors"];
        for name in words.into_iter().chain(["npy", "npz", "gguf-v2", "gguf-v3-big-endian"]) {
            let format: Format = name.parse().unwrap();
            let text = serde_json::to_string(&format).unwrap();
            assert_eq!(text, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<Format>(&text).unwrap(), format);
        }
        let big = Format::Gguf { version: 3, big_endian: true };
        assert_eq!("gguf-v3-big-endian".parse(), Ok(big));
        for name in ["", "zip", "gguf", "gguf-v", "gguf-v3-little-endian"] {
            assert!(name.parse::<Format>().is_err(), "{name}");
        }
    }
}
