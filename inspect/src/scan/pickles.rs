//! Findings in pickles: what they would import and call.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::archive::leads_outside;
use super::calls::{LATIN1, UTF8, byte_string, call, cut, known_at, makes_bytes};
use super::configuration::INSTANTIATORS;
use super::content::{Place, Scanner};
use super::endless::endless;
use super::forged::{array_interface, forged_dtype, named_arguments, state_of_other};
use super::globals::{Class, classify, is_plausible};
use super::text::operator;
use super::uses::{
    MEMMAP, NDARRAY_WRAPPER, STORAGE_INFO, gets_of_torch, handed_back, handed_on, is_getattr, loads,
    makes_tensor, only_reconstructs,
};
use super::{Finding, Rule};
use crate::bytes::{ByteSource, Section};
use crate::error::bytes_that;
use crate::format::torch::persistent_storage;
use crate::pickle::{Id, Node, Object, Pickle, Reader, Stored, Trace};
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

/// PyTorch's storages have numbers; a longer key is no storage's, whose bytes are then scanned.
const LONGEST_KEY: usize = 64;
/// Pickles followed in one stream.
const MOST_PICKLES: usize = 100_000;
/// Pickles without imports that are stepped over where none is expected: a legacy file of PyTorch's has three before its
/// object.
const STEPPED_OVER: usize = 16;
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
            let followed = Trace::read_at(data, at, Reader::Joblib, |trace| {
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
        let (whole, skipped, torn) = Trace::read_at(data, at, Reader::Joblib, |trace| {
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
    fn may_trace(&mut self, place: &Place) -> bool {
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

    /// Imports, calls, and what their arguments hold.
    pub(super) fn imports(&mut self, trace: &Trace<'_>, place: &Place, base: u64) -> Result<()> {
        let pickle = &trace.pickle;
        // Which call uses which import first.
        let mut called: HashMap<(Arc<str>, Arc<str>), Id> = HashMap::new();
        for &(offset, id) in &trace.seen.calls {
            let Node::Object(object) = pickle.node(id) else { continue };
            match pickle.node(object.callable) {
                Node::Global(g) => {
                    called.entry((g.module.clone(), g.name.clone())).or_insert(id);
                    if !object.entries.is_empty() && makes_tensor(&g.module, &g.name) {
                        let message = format!("sets items of the tensor {}", call(pickle, object));
                        self.find(Rule::ChangedTensor, place, Some(base + offset), message);
                    }
                    if let Some(named) = named_arguments(pickle, object) {
                        let message = format!("{named}, which may be an address in memory");
                        self.find(Rule::ForgedArray, place, Some(base + offset), message);
                    }
                    if let Some(endless) = endless(pickle, object) {
                        let message = format!("{endless}: {}", call(pickle, object));
                        self.find(Rule::Expansion, place, Some(base + offset), message);
                    }
                    self.arguments(trace, object, place, base, offset)?;
                }
                // The legacy form refers to classes so: ('module', class, file, source).
                Node::Persistent(pid) if is_class(pickle, *pid) => {}
                _ => {
                    let message = format!("calls something that it computes: {}", call(pickle, object));
                    self.find(Rule::ComputedCall, place, Some(base + offset), message);
                }
            }
        }
        let handed_on = handed_on(trace);
        let gets = gets_of_torch(trace);
        let memmaps = only_reconstructs(trace, MEMMAP);
        for &(offset, id) in &trace.seen.imports {
            let Node::Global(g) = pickle.node(id) else { continue };
            let (module, name) = (g.module.as_ref(), g.name.as_ref());
            let global = format!("{module}.{name}");
            let usage = called.get(&(g.module.clone(), g.name.clone())).map(|&id| match pickle.node(id) {
                Node::Object(object) => format!("would call {}", call(pickle, object)),
                _ => String::new(),
            });
            let what = usage.unwrap_or_else(|| format!("would import {}", cut(&global)));
            let class = match gets {
                Some(class) if is_getattr(module, name) && !handed_on.contains(&(module, name)) => class,
                _ if memmaps && (module, name) == MEMMAP => Class::Harmless,
                _ => self.class(module, name, place),
            };
            let (rule, message) = match class {
                Class::Harmless if handed_on.contains(&(module, name)) && !self.is_allowed(module, name) => {
                    let what = format!("passes {global} to something else, which may call it");
                    match loads(module, name) {
                        Some(why) => (Rule::DangerousImport, format!("{what}: {why}")),
                        None => (Rule::UnknownImport, what),
                    }
                }
                Class::Harmless => {
                    self.harmless(global);
                    continue;
                }
                Class::Dangerous(why) => (Rule::DangerousImport, format!("{what}: {why}")),
                Class::Unknown if module == "copyreg" && name.starts_with("_inverted_registry[") => {
                    (Rule::ExtensionCode, format!("imports by extension code: {}", cut(name)))
                }
                Class::Unknown => (Rule::UnknownImport, what),
            };
            self.findings.add(Finding {
                rule,
                severity: rule.severity(),
                member: place.member.clone(),
                offset: Some(base + offset),
                global: Some(cut(&global)),
                message,
                count: 1,
            });
        }
        for &(offset, id) in &trace.seen.builds {
            // The legacy form refers to classes by persistent ids.
            let class = match *pickle.node(id) {
                Node::Persistent(pid) => class_of(pickle, pid),
                _ => pickle.global(id).or_else(|| handed_back(pickle, id)),
            };
            if let Some((module, name)) = class {
                let message = format!("sets attributes of {}", cut(&format!("{module}.{name}")));
                self.find(Rule::ChangedClass, place, Some(base + offset), message);
            }
        }
        for &(offset, id) in &trace.seen.builds {
            if let Some(forged) = forged_dtype(pickle, id) {
                self.find(Rule::ForgedArray, place, Some(base + offset), forged.to_string());
            }
        }
        if let Some(forged) = state_of_other(pickle) {
            self.find(Rule::ForgedArray, place, Some(base), forged.to_string());
        }
        if let Some(key) = array_interface(pickle) {
            let message = format!("`{key}` says where in memory the values of an array are");
            self.find(Rule::ForgedArray, place, Some(base), message);
        }
        // The storages of `folder/data.pkl` are `folder/data/0` and so on.
        let name = place.member.rsplit('!').next().unwrap_or_default();
        let storages = name.strip_suffix(".pkl").filter(|stem| {
            let last = stem.rsplit('/').next();
            matches!(last, Some("data" | "constants"))
        });
        // PyTorch's interpreter for phones runs the operators that these name.
        let bytecode = matches!(name.rsplit('/').next(), Some("bytecode.pkl" | "mobile_debug_handles.pkl"));
        let mut outside: BTreeSet<&str> = BTreeSet::new();
        // Byte strings may contain pickles for something else to load.
        for index in 0..pickle.node_count() {
            match pickle.node(Id::at(index)) {
                // Lightning imports and calls what its checkpoints' hyperparameters name so.
                Node::Dict(entries) => {
                    let named = entries.iter().filter(|(key, _)| pickle.str(*key) == Some("_instantiator"));
                    for path in named.filter_map(|(_, value)| pickle.str(*value)) {
                        if !INSTANTIATORS.contains(&path) {
                            let message = format!("its hyperparameters have Lightning call {}", cut(path));
                            self.find(Rule::CustomCode, place, Some(base), message);
                        }
                    }
                }
                Node::Str(text) if bytecode => {
                    if let Some(what) = operator(text) {
                        self.find(Rule::DangerousScript, place, Some(base), what);
                    }
                }
                Node::Persistent(pid) => {
                    // torch compares the source of what this names with a file, and may write one: ('module', class, file, source).
                    if names_module(pickle, *pid) && !is_class(pickle, *pid) {
                        let message = "refers to a class that it computes".to_string();
                        self.find(Rule::ComputedCall, place, Some(base), message);
                    }
                    // ('storage', class, key, location, elements)
                    if let Some(folder) = storages
                        && let Some(&[kind, _, key, ..]) = pickle.sequence(*pid)
                        && let (Some("storage"), Some(key)) = (pickle.str(kind), pickle.str(key))
                        && key.len() <= LONGEST_KEY
                    {
                        let announced = persistent_storage(pickle, *pid)
                            .ok()
                            .and_then(|(_, dtype, count, _)| count.checked_mul(dtype.element_size()? as u64));
                        let most = self.storages.entry(format!("{folder}/{key}")).or_default();
                        *most = announced.unwrap_or(0).max(*most);
                    }
                }
                Node::Bytes(bytes) => {
                    self.embedded(bytes, place, base + pickle.offset_of(bytes).unwrap_or(0), false)?;
                }
                Node::Object(object) if pickle.global(object.callable) == Some(STORAGE_INFO) => {
                    let named = pickle.attribute(Id::at(index), "relative_path");
                    outside.extend(named.and_then(|id| pickle.str(id)).filter(|name| leads_outside(name)));
                }
                Node::Object(object) if makes_bytes(pickle, object) => {
                    if !self.may_trace(place) {
                        return Ok(());
                    }
                    let arguments = pickle.sequence(object.args).unwrap_or_default();
                    let len = |id: &Id| pickle.sequence(*id).map_or(1, <[Id]>::len) as u64;
                    self.spend(arguments.iter().map(len).sum());
                    if let Some(bytes) = byte_string(trace, Id::at(index), u64::MAX - 1, 0) {
                        self.spend(bytes.len() as u64 + 1);
                        self.embedded(&bytes, place, base, false)?;
                    }
                }
                _ => {}
            }
        }
        // A listing of a distributed checkpoint, whose parts PyTorch reads wherever they are.
        if let Some(first) = outside.first() {
            let more = if outside.len() > 1 {
                format!(", and {} more files", outside.len() - 1)
            } else {
                String::new()
            };
            let message =
                format!("PyTorch would read `{}`{more}, out of the checkpoint's folder", cut(first));
            self.find(Rule::PathOutside, place, Some(base), message);
        }
        Ok(())
    }

    fn class(&self, module: &str, name: &str, place: &Place) -> Class {
        // TorchScript's own unpickler maps these to types of the archive and to lists; nothing is imported.
        let own = || module == "__torch__" || module.starts_with("__torch__.");
        let of_script = || own() || (module == "torch.jit._pickle" && !name.contains('.'));
        if place.script && of_script() {
            return Class::Harmless;
        }
        let class = classify(module, name);
        match class != Class::Harmless && self.is_allowed(module, name) {
            true => Class::Harmless,
            false => class,
        }
    }

    /// Arguments of harmless callables that need not be harmless.
    fn arguments(
        &mut self,
        trace: &Trace<'_>,
        object: &Object,
        place: &Place,
        base: u64,
        called: u64,
    ) -> Result<()> {
        let (pickle, offset) = (&trace.pickle, base + called);
        let args = pickle.sequence(object.args).unwrap_or(&[]);
        match (pickle.global(object.callable), args) {
            (Some(("torch.storage", "_load_from_bytes")), args) => {
                if !self.may_trace(place) {
                    return Ok(());
                }
                let known = known_at(trace, object.args, called);
                let bytes = args.first().filter(|_| known).and_then(|&id| byte_string(trace, id, called, 0));
                match bytes {
                    Some(bytes) => {
                        self.spend(bytes.len() as u64 + 1);
                        self.embedded(&bytes, place, offset, true)?;
                        // Some readers keep a string of Python 2 as bytes, others decode it to text.
                        if let Some(text) = pickle.str(args[0]).filter(|text| !text.is_ascii()) {
                            self.embedded(text.as_bytes(), place, offset, true)?;
                        }
                    }
                    None => {
                        let message =
                            "torch.storage._load_from_bytes loads bytes that it computes".to_string();
                        self.find(Rule::OpaqueContent, place, Some(offset), message);
                    }
                }
            }
            (Some(("_codecs", "encode")), &[_, encoding, ..]) => {
                let encoding = pickle.str(encoding).unwrap_or("?");
                if !LATIN1.contains(&encoding) && !UTF8.contains(&encoding) {
                    let message = format!("encodes a string as {}", cut(encoding));
                    self.find(Rule::UnknownImport, place, Some(offset), message);
                }
            }
            (Some(NDARRAY_WRAPPER), args) => self.array_beside(pickle, object, args, place, offset),
            _ => {}
        }
        Ok(())
    }

    /// joblib unpickles the file that this object names, `numpy.load(folder + filename, allow_pickle=True)`: one beside
    /// the pickle is scanned as the file it is (`joblib/numpy_pickle_compat.py`).
    fn array_beside(
        &mut self,
        pickle: &Pickle<'_>,
        object: &Object,
        args: &[Id],
        place: &Place,
        offset: u64,
    ) {
        let mut names: Vec<Id> = args.first().copied().into_iter().collect();
        let mut opaque = object.kwargs.is_some();
        for &state in &object.state {
            match pickle.node(state) {
                Node::Dict(entries) => {
                    let named = entries.iter().filter(|(key, _)| pickle.str(*key) == Some("filename"));
                    names.extend(named.map(|&(_, value)| value));
                    opaque |= entries.iter().any(|&(key, _)| pickle.str(key).is_none());
                }
                _ => opaque = true,
            }
        }
        for name in names {
            match pickle.str(name) {
                Some(name) if leads_outside(name) => {
                    let message = format!("joblib would unpickle the file `{}`", cut(name));
                    self.find(Rule::PathOutside, place, Some(offset), message);
                }
                Some(_) => {}
                None => opaque = true,
            }
        }
        if opaque {
            let message = "joblib would unpickle a file whose name is computed".to_string();
            self.find(Rule::OpaqueContent, place, Some(offset), message);
        }
    }

    /// Scans `bytes`, which are part of the pickle at `offset`; `loaded` if they are known to be loaded.
    fn embedded(&mut self, bytes: &[u8], place: &Place, offset: u64, loaded: bool) -> Result<()> {
        let head = bytes.get(..4).unwrap_or_default();
        let like_one = matches!(head, [0x80, 2..=5, ..]) || head == crate::zip::LOCAL_HEADER;
        if !loaded && !like_one {
            return Ok(());
        }
        let Some(inner) = self.inside(place, &format!("bytes at {offset}"), Some(offset)) else {
            return Ok(());
        };
        if loaded {
            self.loaded(&bytes, &inner)?;
        } else if head == crate::zip::LOCAL_HEADER {
            self.zip(&bytes, &inner)?;
        } else {
            self.pickles(&bytes, &inner, Stream::Chance)?;
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

/// Whether a persistent id is one of a module: ('module', class, file, source).
fn names_module(pickle: &Pickle<'_>, id: Id) -> bool {
    pickle.sequence(id).and_then(|parts| pickle.str(*parts.first()?)) == Some("module")
}

/// Whether a persistent id refers to a class that the pickle imports.
fn is_class(pickle: &Pickle<'_>, id: Id) -> bool {
    class_of(pickle, id).is_some()
}

/// The class that a persistent id refers to: ('module', class, file, source).
fn class_of<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<(&'p str, &'p str)> {
    match pickle.sequence(id)? {
        &[kind, class, ..] if pickle.str(kind) == Some("module") => pickle.global(class),
        _ => None,
    }
}
