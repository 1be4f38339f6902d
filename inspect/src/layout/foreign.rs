//! Folders in which other libraries save checkpoints that are known here and not read: opening one says what it is, and
//! what to do.

use std::path::Path;

use super::{Layout, single};
use crate::bytes::stored::Stored;
use crate::{Error, Result};

pub(super) const LAYOUT: Layout = Layout {
    recognises: |path| known(path).is_some(),
    set: |path| refuse(path).map(|()| single::of(path)),
    is_whole: |path| known(path).is_some(),
    ..single::LAYOUT
};

struct Foreign {
    /// A file that is in every such folder.
    marker: &'static str,
    what: &'static str,
    hint: &'static str,
}

const ORBAX: &str = "restore it with orbax.checkpoint and save its arrays: safetensors.flax.save_file(flax.traverse_util.flatten_dict(tree, sep=\".\"), \"model.safetensors\")";

const KNOWN: [Foreign; 2] = [
    Foreign {
        marker: "_CHECKPOINT_METADATA",
        what: "is a checkpoint of Orbax (JAX), whose arrays are in a TensorStore database, which is not read",
        hint: ORBAX,
    },
    Foreign {
        marker: "manifest.ocdbt",
        what: "is a TensorStore database (OCDBT), in which Orbax (JAX) keeps arrays, which is not read",
        hint: ORBAX,
    },
];

fn known(folder: &Path) -> Option<&'static Foreign> {
    KNOWN.iter().find(|foreign| folder.join(foreign.marker).is_stored_file())
}

fn refuse(folder: &Path) -> Result<()> {
    match known(folder) {
        Some(Foreign { what, hint, .. }) => Err(Error::unsupported(*what).in_file(folder).hint(*hint)),
        None => Ok(()),
    }
}
