//! The one error type of this crate: which file, what is wrong with it, where, and what to try.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::damage::DamageKind;

/// Why an operation failed, for callers that act on it (exit codes, continuing with the next file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: missing file, no permission, read failure.
    Io,
    /// The bytes are not a checkpoint in any known format.
    Unrecognised,
    /// The format is known, but its bytes are inconsistent or end too early.
    Damaged,
    /// The bytes are well-formed, but use something that this crate does not support.
    Unsupported,
    /// The checkpoint does not contain what was asked for.
    NotFound,
}

impl ErrorKind {
    const ALL: [ErrorKind; 5] = [
        ErrorKind::Io,
        ErrorKind::Unrecognised,
        ErrorKind::Damaged,
        ErrorKind::Unsupported,
        ErrorKind::NotFound,
    ];

    /// A stable lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Io => "io",
            ErrorKind::Unrecognised => "unrecognised",
            ErrorKind::Damaged => "damaged",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::NotFound => "not-found",
        }
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        ErrorKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What went wrong, in which file and tensor, at which byte, and the next thing to try.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// The kind of damage, if callers act on it.
    pub fault: Option<DamageKind>,
    /// What is wrong, as a phrase that follows the file's name.
    pub what: String,
    /// The file, once known.
    pub path: Option<PathBuf>,
    /// The tensor concerned, if one is.
    pub tensor: Option<String>,
    /// Byte offset in the file (or in the pickle, when `what` says so).
    pub offset: Option<u64>,
    /// What the user can do next.
    pub hint: Option<String>,
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`, described by `what`.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error { kind, fault: None, what: what.into(), path: None, tensor: None, offset: None, hint: None }
    }

    /// The bytes are inconsistent or end too early.
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, what)
    }

    /// Well-formed, but not supported by this crate.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// An operating-system error on `path`.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, error.to_string()).in_file(path)
    }

    /// Adds which damage it is.
    pub fn because(mut self, fault: DamageKind) -> Self {
        self.fault.get_or_insert(fault);
        self
    }

    /// Adds the byte offset.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// Adds the file.
    pub fn in_file(mut self, path: &Path) -> Self {
        self.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// Adds the tensor.
    pub fn in_tensor(mut self, name: &str) -> Self {
        self.tensor.get_or_insert_with(|| name.to_string());
        self
    }

    /// Adds what to try next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }
}

/// `1 byte follows`, `2 bytes follow`.
pub(crate) fn bytes_that(n: u64, verb: &str) -> String {
    if n == 1 { format!("1 byte {verb}s") } else { format!("{n} bytes {verb}") }
}

/// `text` from a file, made safe to show in one line: characters that control a terminal, are invisible, reorder text
/// around them, or are forbidden in XML are written as `\u{…}`.
pub fn printable(text: &str) -> String {
    if !text.contains(is_hostile) {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// The same `json`, in which the characters that [`printable`] escapes have JSON's own escapes: parsing it gives the
/// original text, and printing it is safe.
pub fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hostile(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out += &format!("\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Takes JSON in parts, and passes on what [`printable_json`] makes of it: for what is not to be held in memory as text.
#[derive(Debug)]
pub struct PrintableJson<W> {
    out: W,
    /// The bytes of a character of which the rest is still to come.
    begun: Vec<u8>,
}

impl<W: Write> PrintableJson<W> {
    /// One that passes it on to `out`, in small parts.
    pub fn new(out: W) -> Self {
        PrintableJson { out, begun: Vec::new() }
    }

    /// What it was passed on to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn pass(&mut self, mut text: &str) -> io::Result<()> {
        while let Some((at, c)) = text.char_indices().find(|(_, c)| is_hostile(*c) && *c != '\n') {
            self.out.write_all(&text.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(self.out, "\\u{unit:04x}")?;
            }
            text = &text[at + c.len_utf8()..];
        }
        self.out.write_all(text.as_bytes())
    }
}

impl<W: Write> Write for PrintableJson<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut joined = std::mem::take(&mut self.begun);
        let all = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        match std::str::from_utf8(all) {
            Ok(text) => self.pass(text)?,
            Err(error) if error.error_len().is_some() => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                let (whole, begun) = all.split_at(error.valid_up_to());
                self.pass(std::str::from_utf8(whole).unwrap_or_default())?;
                self.begun = begun.to_vec();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `path` as text for records and JSON: as it is, with bytes that are not UTF-8 as `\xff`, so that different names stay
/// different.
pub fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// [`printable`] text that is safe at the start of a log line: what a CI system would take for a command (a leading
/// `::`, and `##` as in `##[error]` and `##vso[`) is escaped too.
pub fn printable_in_log(text: &str) -> String {
    let text = printable(text).replace("##", "#\\u{23}");
    match text.trim_start().strip_prefix("::") {
        Some(rest) => format!("\\u{{3a}}:{rest}"),
        None => text,
    }
}

/// One line, safe to print whatever the file contains (see [`printable`]).
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", printable(&path.to_string_lossy()))?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor `{}`: ", printable(tensor))?;
        }
        f.write_str(&printable(&self.what))?;
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {}", printable(hint))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{PrintableJson, printable, printable_in_log, printable_json};

    #[test]
    fn commands_of_ci_systems_become_text() {
        assert_eq!(printable_in_log(" ::error::a\n::b"), "\\u{3a}:error::a\\u{a}::b");
        assert_eq!(printable_in_log("a ##[error]b # c"), "a #\\u{23}[error]b # c");
    }

    #[test]
    fn controls_become_visible_and_the_rest_stays() {
        assert_eq!(printable("layers.0.mlp"), "layers.0.mlp");
        assert_eq!(printable("größe 🦀 層"), "größe 🦀 層");
        assert_eq!(printable("a\n\u{1b}[31mb\u{202e}c\u{ffff}"), "a\\u{a}\\u{1b}[31mb\\u{202e}c\\u{ffff}");
        assert_eq!(printable("in\u{200b}visible\u{2028}"), "in\\u{200b}visible\\u{2028}");
    }

    #[test]
    fn json_says_the_same_in_characters_that_are_seen() {
        let value = serde_json::json!({"a\n\u{202e}": ["größe 🦀", "\u{9b}31m\u{e0041}\u{feff}"]});
        let text = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            text.contains("größe 🦀") && text.contains("\\u202e") && text.contains("\\udb40\\udc41"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        let plain = serde_json::to_string_pretty(&value).unwrap();
        for size in 1..9 {
            let mut out = PrintableJson::new(Vec::new());
            plain.as_bytes().chunks(size).for_each(|part| out.write_all(part).unwrap());
            assert_eq!(String::from_utf8(out.out).unwrap(), text, "in parts of {size} bytes");
        }
        assert!(PrintableJson::new(Vec::new()).write_all(b"\xff\"").is_err());
    }
}
