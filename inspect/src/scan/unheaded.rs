//! Pickles of protocol 0 and 1, which have no first bytes of their own, told from texts and other bytes that begin with opcodes.

use std::sync::Arc;

use super::content::{Place, Scanner};
use super::globals::{Class, classify};
use super::kind::{Kind, PICKLED, extension};
use super::pickles::{Stream, begins_plausibly, is_exhausted, names};
use super::plain;
use crate::Result;
use crate::bytes::ByteSource;
use crate::pickle::{Node, Reader, Trace};

/// How lines of the `.pth` files in Python's site-packages begin which are no paths: `site.py` runs some when Python starts, and
/// passes over others. No loader of models reads such files, and some begin like opcodes.
const SITE_LINES: [&[u8]; 3] = [b"import ", b"import\t", b"#"];
/// The end of their names, which weights have, too.
const SITE: &str = "pth";

/// What is known of the first pickle in some bytes.
struct First {
    /// It imports or calls something.
    does_something: bool,
    /// It calls something, or changes what it imports.
    acts: bool,
    calls: bool,
    /// What it imports or calls is not known to be harmless.
    harmful: bool,
    exhausted: bool,
    /// Where it ends, if it is whole.
    end: Option<u64>,
    /// Whether a value was left when it ended.
    kept: bool,
    /// Where it was not followed further.
    stop: Option<u64>,
    /// It is not whole, calls nothing, and what it imports has no name that Python could import.
    nonsense: bool,
}

impl First {
    fn of(trace: &Trace<'_>) -> First {
        let dangerous = |(m, n): &(Arc<str>, Arc<str>)| matches!(classify(m, n), Class::Dangerous(_));
        let harmless = |(m, n): &(Arc<str>, Arc<str>)| classify(m, n) == Class::Harmless;
        let calls = !trace.seen.calls.is_empty();
        let judged = match &trace.error {
            None => !names(trace).iter().all(harmless),
            Some(_) => calls || names(trace).iter().any(dangerous),
        };
        let end = trace.error.is_none().then_some(trace.pickle.len as u64);
        let changes = |index: &u32| {
            matches!(trace.pickle.node(crate::pickle::Id::at(*index as usize)), Node::Global(_))
        };
        First {
            does_something: !trace.seen.imports.is_empty() || calls,
            acts: calls || !trace.seen.builds.is_empty() || trace.seen.changed.keys().any(changes),
            calls,
            harmful: is_exhausted(trace) || begins_plausibly(trace) && judged,
            exhausted: is_exhausted(trace),
            end,
            kept: trace.stored(0).is_none(),
            stop: trace.error.as_ref().and_then(|error| error.offset).filter(|at| *at > 0),
            nonsense: end.is_none() && !calls && !begins_plausibly(trace),
        }
    }
}

/// Pickles that do nothing which are looked behind.
const LOOKED_BEHIND: usize = 64;

/// Whether `data` begin with a pickle that does something, perhaps behind others that do nothing.
pub(super) fn acts(data: &dyn ByteSource) -> Result<bool> {
    let mut at = 0;
    for _ in 0..LOOKED_BEHIND {
        let (first, plausible) = Trace::read_at(data, at, Reader::Joblib, u64::MAX, |trace| {
            (First::of(&trace), begins_plausibly(&trace))
        })?;
        let whole = first.end.is_some() || first.calls;
        match first.end {
            _ if first.harmful && (whole || first.exhausted) || plausible && first.acts && whole => {
                return Ok(true);
            }
            Some(len) if !first.does_something && at + len < data.len() => at += len,
            _ => return Ok(false),
        }
    }
    Ok(false)
}

impl Scanner<'_> {
    /// A pickle without a container, or the file called `name`, if that is one.
    pub(super) fn bare(
        &mut self,
        data: &dyn ByteSource,
        head: &[u8],
        name: &str,
        place: &Place,
    ) -> Result<Option<Kind>> {
        let pickled = PICKLED.contains(&extension(name).as_str());
        let first = Trace::read_at(data, 0, Reader::Joblib, self.memory, |trace| First::of(&trace))?;
        let of_site = first.nonsense
            && extension(name) == SITE
            && SITE_LINES.iter().any(|line| head.starts_with(line))
            && plain::is_text(data)?;
        let does_something = first.does_something && !of_site;
        let headed = matches!(head, [0x80, 2..=5, ..])
            || matches!(head, [0x80, 0 | 1, ..]) && (first.end.is_some() || first.harmful);
        // Whoever reads one that does nothing may read the next.
        let continued = match first.end {
            Some(end) if !pickled && !headed => self.is_continued(data, end)?,
            _ => false,
        };
        // Text called .data or .bin ends at its first letters. Under another name a whole pickle is one if it calls something,
        // whatever follows it, or if it imports something, and nothing follows.
        let is_one = match (pickled, first.end) {
            (true, end) if headed || does_something || end.is_some() => true,
            // One of protocol 0 that was cut off or changed.
            (true, _) => match first.stop {
                Some(stop) => first.kept || plain::is_cut(data, stop)?,
                None => false,
            },
            // What is called before an error has run.
            (false, _) if first.harmful && (first.end.is_some() || first.exhausted || first.calls) => true,
            (false, _) if continued => true,
            (false, Some(end)) if does_something && !headed => {
                first.acts || data.all_from(end, |b| b.is_ascii_whitespace())?
            }
            (false, _) => headed,
        };
        if !is_one {
            return Ok(None);
        }
        let by_chance = !pickled && !headed;
        let stream = if by_chance { Stream::Chance } else { Stream::Pickles };
        Ok(self.pickles(data, place, stream)?.then_some(Kind::Pickle))
    }
}
