//! One file, whatever lies beside it.

use std::path::Path;

use super::{Lacks, Layout, Set};

pub(super) const LAYOUT: Layout = Layout {
    recognises: |_| true,
    set: |path| Ok(of(path)),
    identity: Path::to_path_buf,
    lacks: |_, _| Lacks::default(),
};

/// The set of one file.
pub(super) fn of(path: &Path) -> Set {
    Set { files: vec![path.to_path_buf()], ..Set::default() }
}
