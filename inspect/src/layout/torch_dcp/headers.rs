//! A save that was not finished, so that nothing lists its parts: SafeTensors name their tensors themselves, and say where in
//! these they begin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::metadata::{Listing, Place};
use super::{Stored, is_part, name};
use crate::bytes::Source;
use crate::format::{Contents, safetensors};
use crate::layout::hf_shards;
use crate::{Damage, DamageKind, Notice, NoticeKind};

/// Whether one of `files` begins as a part that names its tensors.
pub(super) fn say_enough(files: &[PathBuf]) -> bool {
    let begins = |path: &&PathBuf| {
        let source = Source::open(path).ok().filter(|_| is_part(path) && path.is_stored_file());
        source.is_some_and(|source| safetensors::extent(source.data(), 0).is_some())
    };
    files.iter().any(|path| begins(&path))
}

/// What such a save lacks.
pub(super) fn unfinished() -> Damage {
    let what = "saving was not finished: .metadata, which is written last, is not there; what the headers of the parts tell is shown, and what other ranks would have saved is not known";
    Damage::new(DamageKind::MissingShards, what)
}

/// Adds to `listing` what the file at `path` says of its parts; tells of bytes after the last of them.
pub(super) fn add(path: &Path, source: &Arc<Source>, listing: &mut Listing, contents: &mut Contents) {
    let file = name(path);
    let mut at = 0;
    while let Some(len) = safetensors::extent(source.data(), at) {
        let Some(own) = Source::section(source, at, len).and_then(|part| safetensors::read(&part).ok())
        else {
            break;
        };
        for tensor in own.tensors {
            let Some(offsets) = hf_shards::begins_at(&own.metadata, &tensor) else { continue };
            let place = Place { file: file.clone(), offset: at, len, transforms: Vec::new() };
            listing.found(&tensor, offsets, place);
        }
        at = at.saturating_add(len);
    }
    if at < source.len() {
        let text = format!(
            "{} bytes of {} name no tensor: nothing says what they are",
            source.len() - at,
            file.escape_debug()
        );
        contents.notices.push(Notice::new(NoticeKind::NotShown, text));
    }
}
