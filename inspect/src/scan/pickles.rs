//! Pickles in streams of bytes, one after another, within each other and where none is expected.

use std::sync::Arc;

use super::Rule;
use super::content::{Place, Scanner};
use super::globals::{Class, classify, is_plausible};
use crate::bytes::{ByteSource, Section};
use crate::error::bytes_that;
use crate::pickle::{Id, Node, Pickle, Reader, Stored, Trace};
use crate::{Error, ErrorKind, Result};

/// How to interpret a stream of pickles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// One pickle, or several one after another: anything else that follows is odd.
    Pickles,
    /// The given number of pickles at most, then other bytes.
    Then(usize),
    /// Bytes that may hold a pickle by chance: only names that Python could import count.
    Chance,
}

/// Pickles followed in one stream.
const MOST_PICKLES: usize = 100_000;
/// Pickles without imports that are stepped over where none is expected: a legacy file of PyTorch's has three before its
/// object.
const STEPPED_OVER: usize = 10_000;
/// Pickles in a row of which one unpickler is followed, and values that it keeps from one to the next.
const MOST_TOGETHER: usize = 64;
pub(super) const MOST_KEPT: usize = 10_000;
/// A longer line of text is no name.
const LONGEST_NAME: u64 = 128;
/// How much more the bytes of a pickle count that may begin anywhere: the same are followed again and again.
const SWEEPING: u64 = 16;
/// Bytes that are swept in one piece.
const SWEPT: u64 = 1 << 20;

impl Scanner<'_> {
    /// Traces the pickles at the start of `data`. Returns whether there was one.
    pub(super) fn pickles(&mut self, data: &dyn ByteSource, place: &Place, stream: Stream) -> Result<bool> {
        let mut at = 0;
        // What an unpickler remembers that reads several pickles.
        let mut memo: Option<Vec<Stored>> = None;
        let limit = match stream {
            Stream::Then(count) => count,
            _ => MOST_PICKLES,
        };
        for number in 0..limit {
            if at >= data.len() {
                return Ok(number > 0);
            }
            if !self.may_trace(place) {
                return Ok(number > 0);
            }
            let followed = Trace::read_at(data, at, Reader::Joblib, self.memory, |trace| {
                self.spend(trace.pickle.len as u64);
                let imports = !trace.seen.imports.is_empty();
                let finished = trace.error.is_none();
                let torn = trace.seen.torn_frames.first().copied();
                let real = match stream {
                    // Loaders that read several pickles step over those that do nothing.
                    Stream::Chance if finished && !imports && number < STEPPED_OVER => {
                        let len = trace.pickle.len as u64;
                        return Ok((Some((len, finished, None, Vec::new(), trace.stored(MOST_KEPT))), torn));
                    }
                    Stream::Chance => is_exhausted(&trace) || begins_plausibly(&trace),
                    // The bytes after a whole pickle are another one if they do anything.
                    _ => number == 0 || imports || finished,
                };
                if !real {
                    return Ok((None, torn));
                }
                self.pickles += 1;
                if stream == Stream::Chance && !self.told_hidden(place) {
                    let message = "there is a pickle where none belongs".to_string();
                    self.find(Rule::HiddenPickle, place, Some(at), message);
                }
                self.report(data, &trace, place, at)?;
                let skipped = trace.seen.skipped.first().copied();
                let named = names(&trace);
                let stored = trace.stored(MOST_KEPT);
                Ok::<_, Error>((Some((trace.pickle.len as u64, finished, skipped, named, stored)), torn))
            })??;
            let (followed, torn) = followed;
            if let Some(torn) = torn.filter(|_| self.may_trace(place)) {
                self.as_frames_are_read(data, at, torn, place, stream)?;
            }
            let Some((len, finished, skipped, named, stored)) = followed else { break };
            memo = match memo.filter(|memo| !memo.is_empty() && number < MOST_TOGETHER) {
                Some(memo) if self.may_trace(place) => {
                    self.as_one_unpickler_reads(data, at, &memo, &named, place)?
                }
                _ if number == 0 => stored,
                _ => None,
            };
            if let Some(skipped) = skipped.filter(|_| self.may_trace(place)) {
                self.as_others_read(data, at, skipped, place)?;
            }
            at += len;
            if !finished {
                return Ok(true);
            }
        }
        let blank = |b: u8| b == 0 || b.is_ascii_whitespace();
        if stream == Stream::Pickles && at > 0 && !data.all_from(at, blank)? {
            let message = bytes_that(data.len() - at, "follow") + " the last pickle";
            self.find(Rule::BytesAfterPickle, place, Some(at), message);
        }
        Ok(at > 0)
    }

    /// Whether one of the pickles that follow at `at`, one after another, imports something, and is whole or has a header:
    /// bytes that end by chance as pickles do are followed by none.
    pub(super) fn is_continued(&mut self, data: &dyn ByteSource, at: u64) -> Result<bool> {
        let mut at = at;
        for _ in 0..STEPPED_OVER {
            if at >= data.len() || !self.afford(1) {
                break;
            }
            let headed = matches!(*data.window(at, 2)?, [0x80, 0..=5]);
            let next = Trace::read_at(data, at, Reader::Joblib, self.memory, |trace| {
                self.spend(trace.pickle.len as u64);
                let whole = trace.error.is_none();
                let imports = (headed || whole) && begins_plausibly(&trace);
                (imports, whole.then_some(trace.pickle.len as u64))
            })?;
            match next {
                (true, _) => return Ok(true),
                (false, Some(len)) => at += len,
                (false, None) => break,
            }
        }
        Ok(false)
    }

    /// A pickle starting anywhere in `data`: for streams in which pickles and raw data alternate. Those of the first
    /// protocols have no header: one may be at the start and after another, and begins with an import elsewhere.
    pub(super) fn sweep(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        let (mut at, mut due) = (0, 0);
        while at < data.len() {
            let window = data.window(at, SWEPT)?;
            let (start, end) = (at, at + window.len() as u64);
            // A pickle may reach beyond the window, and its first bytes may, too.
            while let Some(rest) = window.get((at - start) as usize..).filter(|rest| !rest.is_empty()) {
                let next = match at == due {
                    true => Some(0),
                    false => memchr::memchr3(0x80, b'c', b'i', rest),
                };
                let Some(next) = next else { break };
                at += next as u64;
                let mut len = 1;
                if at == due || begins_pickle(&data.window(at, 2 * LONGEST_NAME)?) {
                    if !self.may_trace(place) {
                        return Ok(());
                    }
                    if let Some(whole) = self.swept(data, at, place)? {
                        len = whole;
                        due = at + len;
                    }
                }
                at += len;
            }
            at = at.max(end);
        }
        Ok(())
    }

    /// Reports what the pickle at `at` does, if it is one, and returns its length if it is whole.
    fn swept(&mut self, data: &dyn ByteSource, at: u64, place: &Place) -> Result<Option<u64>> {
        let (whole, skipped, torn) = Trace::read_at(data, at, Reader::Joblib, self.memory, |trace| {
            self.spend(SWEEPING * trace.pickle.len as u64);
            if trace.seen.imports.is_empty() || begins_plausibly(&trace) {
                self.pickles += u64::from(trace.error.is_none());
                self.imports(&trace, place, at)?;
            }
            let whole = trace.error.is_none().then_some(trace.pickle.len as u64);
            let torn = trace.seen.torn_frames.first().copied();
            Ok::<_, Error>((whole, trace.seen.skipped.first().copied(), torn))
        })??;
        if let Some(torn) = torn {
            self.as_frames_are_read(data, at, torn, place, Stream::Chance)?;
        }
        if let Some(skipped) = skipped {
            self.as_others_read(data, at, skipped, place)?;
        }
        Ok(whole)
    }

    /// Whether there is a budget for following one more pickle.
    pub(super) fn may_trace(&mut self, place: &Place) -> bool {
        let may = self.afford(1);
        if !may {
            self.out_of_budget(place);
        }
        may
    }

    fn report(&mut self, data: &dyn ByteSource, trace: &Trace<'_>, place: &Place, base: u64) -> Result<()> {
        self.imports(trace, place, base)?;
        for &(offset, len) in &trace.seen.inner {
            let inner = Section::part(data, base + offset, len);
            let name = format!("objects at {}", base + offset);
            if let (Some(inner), Some(place)) = (inner, self.inside(place, &name, Some(base + offset))) {
                self.pickles(&inner, &place, Stream::Pickles)?;
            }
        }
        if let Some(values) = unfolded(&trace.pickle) {
            let message = format!("its {} values expand to {values}", trace.pickle.node_count());
            self.find(Rule::Expansion, place, Some(base), message);
        }
        for &offset in &trace.seen.stray_protos {
            let message = "a PROTO opcode in the middle of the pickle".to_string();
            self.find(Rule::StrayProtocol, place, Some(base + offset), message);
        }
        for &offset in &trace.seen.lost_arrays {
            let message =
                "joblib would read an array of unknown size here, so what follows it was not scanned";
            self.find(Rule::OpaqueContent, place, Some(base + offset), message.to_string());
        }
        for &(offset, protocol) in &trace.seen.odd_protos {
            let message = format!("pickle protocol {protocol}, which does not exist; scanned as 5");
            self.find(Rule::StrayProtocol, place, Some(base + offset), message);
        }
        if let Some(error) = &trace.error {
            let offset = error.offset.map(|offset| base + offset);
            let message = match trace.seen.imports.is_empty() && trace.seen.calls.is_empty() {
                true => error.what.clone(),
                false => format!("{}; everything before that is executed", error.what),
            };
            self.find(Rule::BrokenPickle, place, offset, message);
        }
        Ok(())
    }
}

/// The number of values in the pickle if every reference counts as a copy; `None` unless it is out of proportion.
fn unfolded(pickle: &Pickle<'_>) -> Option<String> {
    const HARMLESS: f64 = 1e9;
    let mut sizes: Vec<f64> = Vec::with_capacity(pickle.node_count());
    for index in 0..pickle.node_count() {
        // Nodes created later than their container, as in cycles, are not part of an explosion.
        let size = |id: &Id| sizes.get(id.index() as usize).copied().unwrap_or(1.0);
        let inner: f64 = match pickle.node(Id::at(index)) {
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => items.iter().map(size).sum(),
            Node::Dict(entries) => entries.iter().map(|(key, value)| size(key) + size(value)).sum(),
            Node::Object(object) => {
                size(&object.args) + object.state.iter().chain(&object.items).map(size).sum::<f64>()
            }
            _ => 0.0,
        };
        sizes.push(1.0 + inner);
    }
    let most = sizes.into_iter().fold(0.0, f64::max);
    (most > HARMLESS && most > 1000.0 * pickle.node_count() as f64).then(|| format!("{most:.1e}"))
}

/// Whether the pickle was not followed to its end because it describes more values than are kept in memory, where Python goes
/// on.
pub(super) fn is_exhausted(trace: &Trace<'_>) -> bool {
    trace.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Unsupported)
}

/// What a pickle imports, in order.
pub(super) fn names(trace: &Trace<'_>) -> Vec<(Arc<str>, Arc<str>)> {
    let name = |&(_, id): &(u64, Id)| match trace.pickle.node(id) {
        Node::Global(global) => Some((global.module.clone(), global.name.clone())),
        _ => None,
    };
    trace.seen.imports.iter().filter_map(name).collect()
}

/// Whether a pickle begins with `bytes`: the header of protocol 2 or later, or an import by two lines of text.
fn begins_pickle(bytes: &[u8]) -> bool {
    match bytes {
        [0x80, 2..=5, ..] => true,
        [b'c' | b'i', lines @ ..] => {
            let name = |line: &[u8]| {
                !line.is_empty() && line.iter().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(b))
            };
            let mut lines = lines.split(|byte| *byte == b'\n');
            lines.next().is_some_and(name) && lines.next().is_some_and(name) && lines.next().is_some()
        }
        _ => false,
    }
}

/// Whether the first import could be one: those after it cannot undo what it did.
pub(super) fn begins_plausibly(trace: &Trace<'_>) -> bool {
    let mut imports = trace.seen.imports.iter().filter_map(|&(_, id)| trace.pickle.global(id));
    let Some((module, name)) = imports.next() else { return false };
    // What comes after an import that fails does not run.
    is_plausible(module, name)
        || takes_any_name(module) && is_plausible(module, "any")
        || imports.any(|(module, name)| {
            is_plausible(module, name)
                && match classify(module, name) {
                    Class::Dangerous(_) => true,
                    // A whole pickle that calls something is no chance.
                    Class::Unknown => trace.error.is_none() && !trace.seen.calls.is_empty(),
                    Class::Harmless => false,
                }
        })
}

/// Whether the module has objects with an attribute of every name, as PyTorch's have, and `call` and `sentinel` of mocks.
fn takes_any_name(module: &str) -> bool {
    let within = |package: &str| {
        module.strip_prefix(package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    ["torch", "unittest", "mock"].into_iter().any(within)
}
