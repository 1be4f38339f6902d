//! What Megatron-Core keeps beside the blocks of a distributed checkpoint.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::Deserialize;

use crate::bytes::stored::Stored;
use crate::format::Contents;
use crate::layout::join::{Opened, Reading};
use crate::layout::{name, read_json};
use crate::metadata::{HashableValue, Value, from_json, merge};
use crate::{Damage, DamageKind};

/// What it saves once, for all ranks: a state dict without blocks, and what wrote it.
pub(super) const COMMON: &str = "common.pt";
pub(super) const BACKEND: &str = "metadata.json";
/// The largest of the latter that is read.
const MAX_BACKEND: u64 = 1 << 20;

#[derive(Deserialize)]
struct Backend {
    #[serde(rename = "sharded_backend")]
    _sharded: String,
}

/// Tells if one of the files that Megatron-Core keeps beside the blocks is there without the other: it loads neither.
pub(super) fn without_common([common, backend]: &[PathBuf; 2]) -> Option<Damage> {
    let stated = || read_json::<Backend>(backend, MAX_BACKEND).is_some();
    let gone = match (common.is_stored_file(), backend.is_stored_file()) {
        (false, true) if stated() => COMMON,
        (true, false) => BACKEND,
        _ => return None,
    };
    let what = format!("{gone}, without which Megatron-Core does not load it, is missing");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Adds what Megatron-Core keeps beside the blocks. The state dict of all ranks has other keys than theirs.
pub(super) fn add_beside(file: Opened, reading: &mut Reading, contents: &mut Contents) {
    let path = file.path.clone();
    if name(&path) == BACKEND {
        let Ok(source) = reading.open(file, &mut contents.faults) else { return };
        let bytes = source.bytes(0..source.len().min(MAX_BACKEND));
        let value = bytes.map_err(Damage::from).and_then(|bytes| {
            let what = |e| format!("{BACKEND} is not valid JSON: {e}");
            serde_json::from_slice(&bytes).map_err(|e| Damage::new(DamageKind::Inconsistent, what(e)))
        });
        match value {
            Ok(value) => {
                let backend = BTreeMap::from([(HashableValue::String(BACKEND.into()), from_json(value))]);
                merge(&mut contents.metadata, Value::Dict(backend));
            }
            Err(damage) => contents.faults.push(damage),
        }
        return;
    }
    let Ok(own) = reading.read(file, COMMON, &mut contents.faults) else { return };
    let known: HashSet<String> = contents.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for mut tensor in own.tensors {
        if known.contains(&tensor.name) {
            tensor.name = format!("common.{}", tensor.name);
        }
        contents.tensors.push(tensor);
    }
    merge(&mut contents.metadata, own.metadata);
    crate::format::add_new(&mut contents.globals, own.globals);
    contents.notices.extend(own.notices);
}
