//! Files of ranks that hold the same: each rank has parts of its own, so that one of the two was copied over the other.

use std::collections::HashMap;

use crate::tensor::TensorInfo;
use crate::{Notice, NoticeKind};

/// What files have of their own, by their names.
#[derive(Default)]
pub(super) struct Twins(HashMap<String, Vec<Own>>);

/// A part that no other rank should have the same of.
struct Own {
    name: String,
    shape: Vec<usize>,
    checksum: Option<u32>,
    /// The part itself, of the first ones of a file.
    part: Option<TensorInfo>,
}

/// Elements of a part of which fewer may be the same by chance.
const FEW: u64 = 16;
/// Bytes of a part that are looked at, and parts.
const LOOKED_AT: usize = 1 << 16;
const PARTS: usize = 64;

impl Own {
    /// Whether it is of more than one value: all ranks begin with the same zeros and ones.
    fn tells(&self) -> bool {
        let Some(part) = self.part.as_ref().filter(|part| part.numel() >= FEW) else { return false };
        let size = part.dtype.element_size().unwrap_or(1).max(1);
        let Ok(bytes) = part.bytes() else { return false };
        let mut elements = bytes[..bytes.len().min(LOOKED_AT)].chunks_exact(size);
        let first = elements.next();
        elements.any(|element| Some(element) != first)
    }
}

impl Twins {
    /// Adds that `part` of the tensor `name` is in `file`.
    pub fn add(&mut self, file: &str, name: &str, part: &TensorInfo) {
        let checksum = part.storage.as_ref().and_then(|storage| storage.run().crc32);
        if !self.0.contains_key(file) {
            self.0.insert(file.to_string(), Vec::new());
        }
        let Some(all) = self.0.get_mut(file) else { return };
        let kept = (all.len() < PARTS).then(|| part.clone());
        all.push(Own { name: name.to_string(), shape: part.shape.clone(), checksum, part: kept });
    }

    /// Tells of files that hold the same, by the checksums of all that is in them.
    pub fn notices(self) -> Vec<Notice> {
        type Content<'o> = Vec<(&'o str, &'o [usize], u32)>;
        let mut alike: HashMap<Content<'_>, Vec<&str>> = HashMap::new();
        for (file, all) in &self.0 {
            let content =
                all.iter().map(|own| Some((own.name.as_str(), own.shape.as_slice(), own.checksum?)));
            if let Some(mut content) = content.collect::<Option<Content<'_>>>() {
                content.sort_unstable();
                alike.entry(content).or_default().push(file);
            }
        }
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for mut files in alike.into_values().filter(|files| files.len() > 1) {
            files.sort_unstable();
            let first = files[0];
            if self.0[first].iter().any(Own::tells) {
                pairs.extend(files[1..].iter().map(|other| (first, *other)));
            }
        }
        pairs.sort_unstable();
        let told = |(one, two): (&str, &str)| {
            let text = format!(
                "{} and {} hold the same, though each rank has parts of its own: one was copied over the other",
                one.escape_debug(),
                two.escape_debug()
            );
            let names = self.0[two].iter().map(|own| own.name.clone()).collect();
            Notice::new(NoticeKind::Contradiction, text).about(names)
        };
        pairs.into_iter().map(told).collect()
    }
}
