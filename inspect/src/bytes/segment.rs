//! Ranges of files.

use std::sync::Arc;

use crate::bytes::Source;

/// A range of a file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub source: Arc<Source>,
    pub offset: u64,
    pub len: u64,
}

/// Ranges of files, of which there is nearly always one: a file may list a million tensors.
#[derive(Clone, Debug)]
pub(crate) enum Segments {
    One(Segment),
    /// None, or several.
    Several(Box<[Segment]>),
}

impl From<Segment> for Segments {
    fn from(segment: Segment) -> Self {
        Segments::One(segment)
    }
}

impl From<Vec<Segment>> for Segments {
    fn from(mut segments: Vec<Segment>) -> Self {
        match (segments.pop(), segments.is_empty()) {
            (Some(only), true) => Segments::One(only),
            (last, _) => {
                segments.extend(last);
                Segments::Several(segments.into())
            }
        }
    }
}

impl std::ops::Deref for Segments {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        match self {
            Segments::One(only) => std::slice::from_ref(only),
            Segments::Several(segments) => segments,
        }
    }
}
