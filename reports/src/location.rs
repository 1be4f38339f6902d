//! Where a file is, as seen from the top of a repository: what CI systems attach findings to.

use std::path::{Component, Path};

/// `path` with forward slashes, relative to `root` where it lies below it.
pub fn relative_path(path: &str, root: Option<&Path>) -> String {
    let path = Path::new(path);
    let below = root.and_then(|root| path.strip_prefix(root).ok()).unwrap_or(path);
    let mut out = String::new();
    for component in below.components() {
        match component {
            Component::CurDir => continue,
            Component::RootDir => out.push('/'),
            other => {
                if !out.is_empty() && !out.ends_with('/') {
                    out.push('/');
                }
                out += &other.as_os_str().to_string_lossy();
            }
        }
    }
    if out.is_empty() { ".".into() } else { out }
}

/// [`relative_path`] as a URI reference (RFC 3986): relative where the path is, else with the scheme `file`.
pub fn uri(path: &str, root: Option<&Path>) -> String {
    let path = relative_path(path, root);
    let mut out = String::new();
    if Path::new(&path).is_absolute() {
        out += if path.starts_with('/') { "file://" } else { "file:///" };
    }
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_root() {
        let root = Some(Path::new("/work/repo"));
        assert_eq!(relative_path("/work/repo/a/b.pt", root), "a/b.pt");
        assert_eq!(relative_path("./a//b.pt", root), "a/b.pt");
        assert_eq!(relative_path("../b.pt", root), "../b.pt");
        assert_eq!(relative_path("/elsewhere/b.pt", root), "/elsewhere/b.pt");
        assert_eq!(relative_path("/work/repo", root), ".");
    }

    #[test]
    fn uris_hold_no_character_that_means_something() {
        assert_eq!(uri("a b/ü#?%:.pt", None), "a%20b/%C3%BC%23%3F%25%3A.pt");
        assert_eq!(uri("/x/y.pt", None), "file:///x/y.pt");
    }
}
