//! Where the files lie that tests read.

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A file of `tests/fixtures`: `fixture("healthy-run/step-02000.pt")`.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// A file of the folder `tests/data` of the crate in the folder `of`: `data("inspect", "every_type.gguf")`.
pub fn data(of: &str, name: &str) -> PathBuf {
    root().join(of).join("tests/data").join(name)
}

/// Every file below `folder` whose name ends in one of `endings`, in order.
pub fn below(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path, endings));
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}
