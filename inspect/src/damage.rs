//! What is wrong with a file or a tensor, and what its reader has to say besides: a kind that callers act on, and a
//! sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// What class of damage something has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DamageKind {
    /// The file ends before the bytes do that it announces.
    CutShort,
    /// A tensor reaches beyond the storage that it is a view of.
    BeyondStorage,
    /// The bytes of a storage are not in the file.
    StorageLost,
    /// The directory of an archive cannot be followed: cut short, overwritten or never finished.
    DirectoryLost,
    /// The file is empty.
    Empty,
    /// The file holds nothing but zero bytes.
    ZeroBytes,
    /// Files of a set are not there.
    MissingShards,
    /// Tensors that an index promises are in no file of the set.
    MissingTensors,
    /// A file of a set cannot be read.
    UnreadableShard,
    /// Bytes differ from their checksum.
    ChecksumMismatch,
    /// One name stands for two things where the format allows one.
    Duplicate,
    /// Tensors overlap where the format allows no overlap.
    Overlap,
    /// An entry of a listing describes no tensor that can be read.
    UnreadableEntry,
    /// A shape does not fit the bytes, the blocks or the elements that it is said to have.
    Shape,
    /// Two parts of the file contradict each other.
    Inconsistent,
    /// Bytes were inserted or removed, so that what lies where cannot be told.
    Shifted,
    /// Where the data begin cannot be told.
    UnknownPlace,
    /// Its type is not known.
    UnknownType,
    /// Codes that stand for nothing.
    UnknownCode,
    /// Compressed data do not decode, or are compressed in a way that is not read.
    Compression,
    /// It was saved without data.
    NoData,
    /// Some of its tensors cannot be read.
    Tensors,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

impl DamageKind {
    /// Whether bytes are missing at the end of a file.
    pub fn is_truncation(self) -> bool {
        use DamageKind::*;
        matches!(self, CutShort | BeyondStorage | StorageLost | DirectoryLost)
    }
}

/// What is wrong with a container or a tensor. As text it is [`Damage::what`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Damage {
    /// Its kind; of several faults, that of the first.
    pub kind: DamageKind,
    /// What is wrong, in words; several faults joined by `; `.
    pub what: String,
    /// The kinds of the faults after the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub besides: Vec<DamageKind>,
}

impl Damage {
    /// One fault.
    pub fn new(kind: DamageKind, what: impl Into<String>) -> Self {
        Damage { kind, what: what.into(), besides: Vec::new() }
    }

    /// The kinds of all its faults.
    pub fn kinds(&self) -> impl Iterator<Item = DamageKind> {
        [self.kind].into_iter().chain(self.besides.iter().copied())
    }

    /// Whether one of its faults is of `kind`.
    pub fn is(&self, kind: DamageKind) -> bool {
        self.kinds().any(|own| own == kind)
    }

    /// Whether one of its faults is that bytes are missing at the end of a file.
    pub fn is_truncation(&self) -> bool {
        self.kinds().any(DamageKind::is_truncation)
    }

    /// Adds the faults of `more`.
    pub fn and(mut self, more: Damage) -> Self {
        self.what.push_str("; ");
        self.what.push_str(&more.what);
        self.besides.push(more.kind);
        self.besides.extend(more.besides);
        self
    }

    /// Several faults as one; `None` of none.
    pub fn joined(faults: impl IntoIterator<Item = Damage>) -> Option<Damage> {
        faults.into_iter().reduce(Damage::and)
    }
}

/// The whole message, and the fault that the error tells of.
impl From<Error> for Damage {
    fn from(error: Error) -> Self {
        Damage::new(error.fault.unwrap_or_default(), error.to_string())
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What whoever needs the damaged bytes is told.
impl From<&Damage> for Error {
    fn from(damage: &Damage) -> Self {
        Error::new(ErrorKind::Damaged, damage.what.clone()).because(damage.kind)
    }
}

/// What class of remark a notice is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoticeKind {
    /// Bytes follow all that the format describes.
    Surplus,
    /// Bytes between tensors belong to none.
    Hole,
    /// A name is there more than once, and the first one counts.
    Duplicate,
    /// What the format writes one way is written in another.
    Unusual,
    /// Tensors do not lie where the format's alignment puts them.
    Misaligned,
    /// Sizes are written in another order than the format's.
    ForeignOrder,
    /// The file does not tell a layout, and one was assumed.
    AssumedLayout,
    /// The scales of packed matrices are lost.
    LostScale,
    /// A configuration beside the weights cannot be understood, and was not used.
    ConfigNotUnderstood,
    /// Tensors, or files named like shards, are not in the index of their set.
    Unlisted,
    /// Two files of a set, or of a folder, say different things of one tensor.
    Contradiction,
    /// The folder holds the same model in another form, which was not read.
    OtherForm,
    /// Objects of the file cannot be shown as what they are.
    NotShown,
    /// The listing was cut where the file repeats itself out of proportion.
    ListingCut,
    /// A part that is not needed for the rest is damaged.
    DamagedPart,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

/// Something that the user should know of a checkpoint and that is not damage. As text it is [`Notice::text`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Notice {
    /// Its kind.
    pub kind: NoticeKind,
    /// What there is to know, in words.
    pub text: String,
    /// Whether the format's own library refuses a file for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

impl Notice {
    /// A notice of `kind`.
    pub fn new(kind: NoticeKind, text: impl Into<String>) -> Self {
        Notice { kind, text: text.into(), refused: false }
    }

    /// The same, for what the format's own library refuses a file for.
    pub fn refused(self) -> Self {
        Notice { refused: true, ..self }
    }

    /// Whether it speaks against the checkpoint: its own library refuses it, or its files do not agree.
    pub fn is_finding(&self) -> bool {
        self.refused || matches!(self.kind, NoticeKind::Unlisted | NoticeKind::Contradiction)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq<&str> for Notice {
    fn eq(&self, text: &&str) -> bool {
        self.text == *text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_join_and_keep_their_kinds() {
        let faults = [
            Damage::new(DamageKind::Duplicate, "one name twice"),
            Damage::new(DamageKind::CutShort, "its end is gone"),
        ];
        let damage = Damage::joined(faults).unwrap();
        assert_eq!(damage.what, "one name twice; its end is gone");
        assert!(damage.is(DamageKind::Duplicate) && damage.is_truncation());
        assert!(!damage.is(DamageKind::Overlap));
        assert_eq!(Damage::joined([]), None);
    }

    #[test]
    fn kinds_that_a_later_version_writes_are_read() {
        let known: DamageKind = serde_json::from_str("\"cut-short\"").unwrap();
        let later: DamageKind = serde_json::from_str("\"eaten\"").unwrap();
        assert_eq!((known, later), (DamageKind::CutShort, DamageKind::Other));
    }
}
