//! What is wrong with a file or a tensor, and notices about it: a kind that callers act on, and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// Kinds of damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DamageKind {
    /// The file ends before all the bytes that it announces.
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
    /// Files of a set are missing.
    MissingShards,
    /// Tensors that an index promises are in no file of the set.
    MissingTensors,
    /// A file of a set cannot be read.
    UnreadableShard,
    /// Bytes differ from their checksum.
    ChecksumMismatch,
    /// One name is used twice where the format allows it once.
    Duplicate,
    /// Tensors overlap where the format allows no overlap.
    Overlap,
    /// An entry of a listing describes no tensor that can be read.
    UnreadableEntry,
    /// A shape does not fit the declared bytes, blocks or elements.
    Shape,
    /// Two parts of the file contradict each other.
    Inconsistent,
    /// Bytes were inserted or removed, so that positions after them are unknown.
    Shifted,
    /// The position of the data is unknown.
    UnknownPlace,
    /// Its type is unknown.
    UnknownType,
    /// Codes that are not ternary values.
    UnknownCode,
    /// An index, a group or a zero point is outside of what it points into.
    OutOfRange,
    /// Compressed data that does not decode, or whose compression is not supported.
    Compression,
    /// It was saved without data.
    NoData,
    /// Bytes could not be read, by a failure of the disk or the network: another try may succeed.
    Unread,
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

/// The whole message of the error, and its kind of damage.
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

/// The error of reading the damaged bytes.
impl From<&Damage> for Error {
    fn from(damage: &Damage) -> Self {
        Error::new(ErrorKind::Damaged, damage.what.clone()).because(damage.kind)
    }
}

/// Kinds of notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoticeKind {
    /// Bytes follow the end of the data.
    Surplus,
    /// Bytes between tensors belong to no tensor.
    Hole,
    /// A name occurs more than once, and the first occurrence is used.
    Duplicate,
    /// What the format writes one way is written in another.
    Unusual,
    /// Tensors do not lie where the format's alignment puts them.
    Misaligned,
    /// Dimensions are in another order than the format's.
    ForeignOrder,
    /// The file does not record a layout, and one was assumed.
    AssumedLayout,
    /// The scales of packed matrices are lost.
    LostScale,
    /// A configuration next to the weights is invalid, and was not used.
    ConfigNotUnderstood,
    /// Tensors, or files named like shards, are not in the index of their set.
    Unlisted,
    /// Ranks have other values of what each may keep for itself, as running statistics.
    Unlike,
    /// Two files of a set, or of a folder, say different things of one tensor.
    Contradiction,
    /// The folder holds the same model in another form, which was not read.
    OtherForm,
    /// Objects of the file cannot be read as what they are.
    NotShown,
    /// A tensor of the file cannot be read, so that it is in no listing.
    Unread,
    /// The listing was cut because the file repeats itself out of proportion.
    ListingCut,
    /// A part that is not needed for the rest is damaged.
    DamagedPart,
    /// Tensors are one rank's parts of larger ones.
    OneRank,
    /// Tensors are vectors of several parameters, of which neither names nor shapes are known.
    Flat,
    /// A part of what was saved is gone, and the rest is shown without it: an optimizer's files, a folder that another
    /// file names.
    Gone,
    /// A number is skipped among files that are numbered: whether there was one of that number is not known.
    Skipped,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

/// Something that the user should know about a checkpoint and that is not damage. As text it is [`Notice::text`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Notice {
    /// Its kind.
    pub kind: NoticeKind,
    /// What there is to know, in words.
    pub text: String,
    /// Whether the format's own library refuses a file for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The tensors that it is about, if it is about some of which another copy would be better.
    #[serde(skip)]
    pub tensors: Vec<String>,
}

impl Notice {
    /// A notice of `kind`.
    pub fn new(kind: NoticeKind, text: impl Into<String>) -> Self {
        Notice { kind, text: text.into(), refused: false, tensors: Vec::new() }
    }

    /// The same, about `tensors`.
    pub(crate) fn about(self, tensors: Vec<String>) -> Self {
        Notice { tensors, ..self }
    }

    /// The same, with the names of its tensors as `named` makes them.
    pub(crate) fn renamed(self, named: impl Fn(&str) -> String) -> Self {
        let tensors = self.tensors.iter().map(|name| named(name)).collect();
        Notice { tensors, ..self }
    }

    /// The same, for what the format's own library refuses a file for.
    pub fn refused(self) -> Self {
        Notice { refused: true, ..self }
    }

    /// Whether it speaks against the checkpoint: its own library refuses it, its files do not agree, or parts of the model
    /// are not there.
    pub fn is_finding(&self) -> bool {
        use NoticeKind::*;
        self.refused || matches!(self.kind, Unlisted | Contradiction | OneRank | Skipped)
    }

    /// Whether who trusts the checkpoint should know it, though nothing in it is wrong: bytes that belong to nothing, a
    /// part of the save that is gone or not read.
    pub fn is_doubt(&self) -> bool {
        use NoticeKind::*;
        !self.is_finding() && matches!(self.kind, Surplus | Hole | Gone | Unlike | Unread)
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
