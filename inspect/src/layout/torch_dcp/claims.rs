//! Which archives of a distributed checkpoint's files are whose: each is of one entry alone.

use std::ops::Range;

use super::metadata::Place;
use crate::{Notice, NoticeKind};

/// The archives that were read, and the entry that each is of.
#[derive(Default)]
pub(super) struct Claims(Vec<Claim>);

/// The range of a file that an archive is in, and the name of what it is of.
struct Claim {
    file: String,
    range: Range<u64>,
    name: String,
}

impl Claims {
    /// Keeps that the archive at `place` is that of `name`.
    pub fn add(&mut self, name: &str, place: &Place) {
        let range = place.offset..place.offset.saturating_add(place.len);
        self.0.push(Claim { file: place.file.clone(), range, name: name.to_string() });
    }

    /// Tells of entries of different names that lie in the same bytes: one of them is not what it is said to be.
    pub fn shared(mut self) -> Vec<Notice> {
        self.0.sort_unstable_by(|a, b| {
            let key = |claim: &Claim| (claim.range.start, claim.range.end);
            a.file.cmp(&b.file).then(key(a).cmp(&key(b))).then_with(|| a.name.cmp(&b.name))
        });
        let mut notices = Vec::new();
        let mut furthest: Option<&Claim> = None;
        for claim in &self.0 {
            let before = furthest.filter(|before| before.file == claim.file);
            if let Some(before) = before.filter(|before| before.range.end > claim.range.start)
                && before.name != claim.name
            {
                notices.push(before.and(claim));
            }
            if before.is_none_or(|before| before.range.end <= claim.range.end) {
                furthest = Some(claim);
            }
        }
        notices
    }
}

impl Claim {
    fn and(&self, other: &Claim) -> Notice {
        let text = format!(
            "`{}` and `{}` are by the listing in the same bytes of {}, {} to {}: one of them is not what was saved",
            self.name.escape_debug(),
            other.name.escape_debug(),
            self.file.escape_debug(),
            other.range.start,
            other.range.end.min(self.range.end)
        );
        Notice::new(NoticeKind::Contradiction, text).about(vec![self.name.clone(), other.name.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_told_of_two_names_and_not_of_neighbours_or_one_name() {
        let shared = |places: &[(&str, &str, u64, u64)]| {
            let mut claims = Claims::default();
            for &(name, file, offset, len) in places {
                let place = Place { file: file.into(), offset, len, transforms: Vec::new() };
                claims.add(name, &place);
            }
            claims.shared().into_iter().map(|notice| notice.tensors).collect::<Vec<_>>()
        };
        assert!(shared(&[("a", "f", 0, 4), ("b", "f", 4, 4), ("c", "g", 0, 9), ("a", "f", 0, 4)]).is_empty());
        assert_eq!(shared(&[("b", "f", 3, 4), ("a", "f", 0, 4)]), [["a", "b"]]);
        // One that covers several.
        assert_eq!(shared(&[("a", "f", 0, 9), ("b", "f", 1, 2), ("c", "f", 8, 2)]), [["a", "b"], ["a", "c"]]);
    }
}
