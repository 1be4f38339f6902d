//! One file, whatever lies beside it.

use std::path::Path;

use super::{Layout, Set};

pub(super) const LAYOUT: Layout = Layout {
    recognises: |_| true,
    set: |path| Ok(of(path)),
    identity: Path::to_path_buf,
    complete: |_, _| (),
};

/// The set of one file.
pub(super) fn of(path: &Path) -> Set {
    Set { files: vec![path.to_path_buf()], ..Set::default() }
}
