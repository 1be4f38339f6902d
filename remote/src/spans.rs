//! What was fetched of small reads, so that what lies close together is asked for once.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes that are kept of all files together.
const ROOM: usize = 64 << 20;

/// Parts of files, by the number of the file and where each part begins. The oldest are dropped first.
#[derive(Debug, Default)]
pub(crate) struct Spans(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    spans: BTreeMap<(u64, u64), Bytes>,
    order: VecDeque<(u64, u64)>,
    bytes: usize,
}

impl Spans {
    /// Keeps `bytes`, which are those of `file` from `start`.
    pub fn keep(&self, file: u64, start: u64, bytes: Bytes) {
        if bytes.is_empty() || bytes.len() > ROOM {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (file, start);
        if kept.spans.get(&key).is_some_and(|known| known.len() >= bytes.len()) {
            return;
        }
        kept.bytes += bytes.len();
        match kept.spans.insert(key, bytes) {
            Some(shorter) => kept.bytes -= shorter.len(),
            None => kept.order.push_back(key),
        }
        while kept.bytes > ROOM {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(dropped) = kept.spans.remove(&oldest) {
                kept.bytes -= dropped.len();
            }
        }
    }

    /// The parts of `range` of `file` that are kept, in order, each where it begins; none overlaps another.
    pub fn within(&self, file: u64, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            // The one that begins before, if it reaches so far, or else the next.
            let before = kept.spans.range((file, 0)..=(file, at)).next_back();
            let before = before.filter(|((_, start), bytes)| start + bytes.len() as u64 > at);
            let next = || kept.spans.range((file, at)..(file, range.end)).next();
            let Some((&(_, start), bytes)) = before.or_else(next) else { break };
            let from = at.max(start);
            let to = (start + bytes.len() as u64).min(range.end);
            found.push((from, bytes.slice((from - start) as usize..(to - start) as usize)));
            at = to;
        }
        found
    }
}

/// What `found`, the parts of `range` that are there, leaves open.
pub(crate) fn holes(range: &Range<u64>, found: &[(u64, Bytes)]) -> Vec<Range<u64>> {
    let (mut holes, mut at) = (Vec::new(), range.start);
    for (start, bytes) in found {
        if *start > at {
            holes.push(at..*start);
        }
        at = start + bytes.len() as u64;
    }
    if at < range.end {
        holes.push(at..range.end);
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_and_what_is_left_open_make_the_range() {
        let all: Vec<u8> = (0..=255).collect();
        let spans = Spans::default();
        let part = |range: Range<usize>| Bytes::copy_from_slice(&all[range]);
        for range in [10..20, 15..40, 60..61, 10..12, 100..200] {
            spans.keep(1, range.start as u64, part(range));
        }
        spans.keep(2, 20, part(0..200));
        for start in 0..255 {
            for end in start + 1..256 {
                let range = start..end;
                let mut made = vec![None; (end - start) as usize];
                let found = spans.within(1, &range);
                let open = holes(&range, &found);
                for (at, bytes) in found {
                    for (i, byte) in bytes.iter().enumerate() {
                        assert_eq!(made[(at - start) as usize + i].replace(*byte), None, "{range:?}");
                    }
                }
                for at in open.into_iter().flatten() {
                    assert_eq!(made[(at - start) as usize].replace(at as u8), None, "{range:?}");
                    assert!(!(10..40).contains(&at) && at != 60 && !(100..200).contains(&at));
                }
                let expected: Vec<Option<u8>> = (start..end).map(|at| Some(at as u8)).collect();
                assert_eq!(made, expected, "{range:?}");
            }
        }
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let spans = Spans::default();
        for nth in 0..100u64 {
            spans.keep(nth, 0, Bytes::from(vec![0; 1 << 20]));
        }
        assert!(spans.0.lock().unwrap().bytes <= ROOM);
        assert!(spans.within(0, &(0..1)).is_empty());
        assert_eq!(spans.within(99, &(0..1)).len(), 1);
    }
}
