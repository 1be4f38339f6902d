//! The splits of a GGUF file, `NAME-00001-of-0000N.gguf`, whose `split.` keys say how many there are.

use std::path::{Path, PathBuf};

use super::sharded::{file_set, shard_parts};
use super::{Joined, Lacks, Layout, Set, name, single};
use crate::bytes::stored::Stored;
use crate::metadata::{HashableValue, Value, as_u64};
use crate::{Damage, DamageKind, Format};

pub(super) const LAYOUT: Layout =
    Layout { recognises, set: |path| Ok(file_set(path)), identity, lacks, ..single::LAYOUT };

fn recognises(path: &Path) -> bool {
    shard_parts(&name(path)).is_some_and(|(.., ext)| ext.ends_with(".gguf"))
}

/// The name of the file that the splits were made from.
fn identity(path: &Path) -> PathBuf {
    match shard_parts(&name(path)).filter(|_| path.is_stored_file()) {
        Some((base, .., ext)) => path.with_file_name(format!("{base}{ext}")),
        None => path.to_path_buf(),
    }
}

/// Every part of a split says how many parts there are, even if it was renamed.
fn lacks(set: &Set, joined: &Joined<'_>) -> Lacks {
    let missing = if set.missing.is_none() { missing_splits(joined) } else { None };
    Lacks { damage: missing.into_iter().collect(), ..Lacks::default() }
}

/// What a GGUF checkpoint lacks of the splits and tensors that its `split.` keys promise.
fn missing_splits(joined: &Joined<'_>) -> Option<Damage> {
    let key = |name: &str| {
        let Value::Dict(entries) = joined.metadata else { return None };
        as_u64(entries.get(&HashableValue::String(name.into()))?)
    };
    let (Format::Gguf { .. }, Some(count)) = (joined.format, key("split.count")) else { return None };
    let (files, tensors) = (joined.files as u64, joined.tensors.len() as u64);
    if count > files {
        let what = format!(
            "it is split {} of {count}, and the others are not next to it under names that end in -0000N-of-{count:05}",
            key("split.no").map_or_else(|| "one".into(), |n| n.saturating_add(1).to_string())
        );
        return Some(Damage::new(DamageKind::MissingShards, what));
    }
    let promised = key("split.tensors.count")?;
    (promised > tensors).then(|| {
        let what = format!("the splits contain {tensors} of {promised} tensors");
        Damage::new(DamageKind::MissingTensors, what)
    })
}
