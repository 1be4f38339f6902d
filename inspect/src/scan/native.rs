//! Machine code.

use crate::Result;
use crate::bytes::ByteSource;

/// First bytes of programs and libraries.
const NATIVE: [(&[u8], &str); 10] = [
    (b"\x7fELF", "ELF"),
    (b"\xcf\xfa\xed\xfe", "Mach-O"),
    (b"\xce\xfa\xed\xfe", "Mach-O"),
    (FAT, "Mach-O"),
    (b"\xca\xfe\xba\xbf", "Mach-O"),
    (b"\xfe\xed\xfa\xcf", "Mach-O"),
    (b"\xfe\xed\xfa\xce", "Mach-O"),
    (b"MZ\x90\0", "Windows"),
    (b"!<arch>\n", "a library of"),
    (b"\0asm", "WebAssembly"),
];

/// How a library of Mach-O for several processors begins, and a class of Java's.
const FAT: &[u8] = b"\xca\xfe\xba\xbe";
/// The least version that a class of Java's has, where such a library has a number of processors.
const JAVA: u32 = 45;
/// What every archive of Java's has.
const JAR: &str = "META-INF/MANIFEST.MF";
/// The ends of names, in lower case, that an archive has which something else takes for its own: a loader of models, or Python.
const MODELS: [&str; 9] = [
    ".pkl",
    ".pt",
    ".pth",
    ".npy",
    ".py",
    "mar-inf/manifest.json",
    "archive_format",
    "extern_modules",
    "model_config.yaml",
];

/// What a class of Java's is called.
const JAVA_CLASS: &str = "a class of Java's";

/// Other files that something else than a loader of models runs: by the ends of their names, and bytes that they have near their
/// beginning.
const OTHERS: [(&str, u64, &[u8], &str); 2] = [
    ("pyc", 2, b"\r\n", "Python's byte code"),
    ("lnk", 0, b"L\0\0\0\x01\x14\x02\0", "a shortcut of Windows'"),
];

/// The folder of a package that AOTInductor compiled: `AOTIModelPackageLoader` unpacks it, compiles the source in it by the commands
/// that it has, and loads the library
/// (`torch/csrc/inductor/aoti_package/model_package_loader.cpp`).
const PACKAGE: [&str; 2] = ["data", "aotinductor"];
/// The ends of the names of what it compiles, links, loads, or takes commands from.
const COMPILED: [&str; 12] = [
    ".cpp",
    ".cu",
    ".c",
    ".o",
    ".so",
    ".dll",
    ".pyd",
    ".dylib",
    ".a",
    "_compile_flags.json",
    "_linker_flags.json",
    ".cubin",
];

/// Whether the member `name` of an archive is what PyTorch compiles or loads when it loads the archive.
pub(super) fn is_compiled(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split(['/', '\\']).filter(|part| !matches!(*part, "" | ".")).collect();
    parts.windows(PACKAGE.len()).any(|folder| folder == PACKAGE)
        && COMPILED.iter().any(|end| name.ends_with(end))
}

/// What the file called `name` is if that is a program.
pub(super) fn program(data: &dyn ByteSource, name: &str) -> Result<Option<String>> {
    for (extension, at, bytes, what) in OTHERS {
        if super::kind::extension(name) == extension
            && data.window(at, bytes.len() as u64)?.starts_with(bytes)
        {
            return Ok(Some(what.to_string()));
        }
    }
    match is_java(data)? {
        true => Ok(Some(JAVA_CLASS.to_string())),
        false => Ok(kind(data)?.map(|kind| format!("{kind} machine code"))),
    }
}

/// Whether `data` is a class of Java's, which no loader of models runs.
pub(super) fn is_java(data: &dyn ByteSource) -> Result<bool> {
    let head = data.window(0, 8)?;
    let version = head.strip_prefix(FAT).and_then(|rest| <[u8; 4]>::try_from(rest).ok());
    // The lesser half of a version comes first, and is 0 or what marks a trial.
    Ok(version.is_some_and(|version| u32::from_be_bytes(version) & 0xffff >= JAVA))
}

/// Whether an archive of entries with these `names` is Java's, and nothing that a loader of models would take for its own.
pub(super) fn is_jar<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    let of_models = |name: &str| {
        let name = name.to_ascii_lowercase();
        MODELS.iter().any(|end| name.ends_with(end)) || is_compiled(&name)
    };
    names.clone().any(|name| name == JAR) && !names.clone().any(of_models)
}

/// Where a program for Windows says at which offset its header begins.
const PE_OFFSET: u64 = 0x3c;

/// The kind of machine code that `data` is, if it is.
pub(super) fn kind(data: &dyn ByteSource) -> Result<Option<&'static str>> {
    if is_java(data)? {
        return Ok(None);
    }
    let head = data.window(0, 8)?;
    let known = NATIVE.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
    Ok(match known {
        None if head.starts_with(b"MZ") && is_windows(data)? => Some("Windows"),
        known => known,
    })
}

/// Whether the header of a program for Windows is where `data` says.
fn is_windows(data: &dyn ByteSource) -> Result<bool> {
    let at = data.window(PE_OFFSET, 4)?;
    let Ok(at) = <[u8; 4]>::try_from(&*at).map(u32::from_le_bytes) else { return Ok(false) };
    Ok(data.window(at.into(), 4)?.starts_with(b"PE\0\0"))
}
