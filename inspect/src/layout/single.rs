//! One file, whatever lies beside it: what every layout is but for what it says otherwise.

use std::collections::HashSet;
use std::path::Path;

use super::{Lacks, Layout, Set, join};

pub(super) const LAYOUT: Layout = Layout {
    recognises: |_| true,
    set: |path| Ok(of(path)),
    identity: Path::to_path_buf,
    join: join::one_after_another,
    lacks: |_, _| Lacks::default(),
    stands_for_files: |_| false,
    covers: |_| HashSet::new(),
    is_model: |_| false,
    is_whole: |_| false,
};

/// The set of one file.
pub(super) fn of(path: &Path) -> Set {
    Set { files: vec![path.to_path_buf()], ..Set::default() }
}
