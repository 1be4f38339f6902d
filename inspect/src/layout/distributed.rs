//! What `torch.distributed.checkpoint` writes: a folder of `.distcp` files, and `.metadata` that says what lies where in
//! them. It is recognised, and not read.

use std::path::Path;

use super::{Layout, Set, name, single};
use crate::torch_zip::DCP_HINT;
use crate::{Error, Result};

pub(super) const LAYOUT: Layout = Layout { recognises, set, is_whole: recognises, ..single::LAYOUT };

fn recognises(path: &Path) -> bool {
    let distcp =
        |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|e| name(&e.path()).ends_with(".distcp"));
    path.join(".metadata").is_file() && std::fs::read_dir(path).is_ok_and(|mut entries| entries.any(distcp))
}

fn set(folder: &Path) -> Result<Set> {
    let what = "is a distributed checkpoint (.distcp files with their .metadata), which is not read";
    Err(Error::unsupported(what).in_file(folder).hint(DCP_HINT))
}
