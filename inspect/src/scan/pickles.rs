//! Findings in pickles: what they would import and call.

use std::borrow::Cow;
use std::collections::HashMap;

use super::content::{Place, Scanner};
use super::globals::{Class, classify, is_plausible};
use super::{Finding, Rule};
use crate::pickle::{Id, Node, Object, Pickle, Trace};

/// How a stream of pickles is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// One pickle, or several one after another: anything else that follows is odd.
    Pickles,
    /// The given number of pickles at most, then bytes that are none.
    Then(usize),
    /// Bytes that may hold a pickle by chance: only names that Python could import count.
    Chance,
}

/// Characters of a call that a message shows.
const SHOWN: usize = 160;
/// Pickles followed in one stream.
const MOST_PICKLES: usize = 100_000;

impl Scanner<'_> {
    /// Follows the pickles at the start of `bytes`. Tells whether there was one.
    pub(super) fn pickles(&mut self, bytes: &[u8], place: &Place, stream: Stream) -> bool {
        let mut at = 0;
        let limit = match stream {
            Stream::Then(count) => count,
            _ => MOST_PICKLES,
        };
        for number in 0..limit {
            let rest = &bytes[at..];
            if rest.is_empty() {
                return number > 0;
            }
            let Some(trace) = self.trace(rest, place) else { return number > 0 };
            let names = trace.seen.imports.iter().filter_map(|(_, id)| trace.pickle.global(*id));
            let plausible = names.clone().all(|(module, name)| is_plausible(module, name));
            let imports = names.count() > 0;
            let finished = trace.error.is_none();
            let real = match stream {
                Stream::Chance => imports && plausible,
                // What follows a whole pickle is another one if it does anything at all.
                _ => number == 0 || imports || (finished && trace.pickle.len > 2),
            };
            if !real {
                break;
            }
            self.pickles += 1;
            if stream == Stream::Chance && !self.told_hidden(place) {
                let message = "a pickle lies where none belongs".to_string();
                self.find(Rule::HiddenPickle, place, Some(at as u64), message);
            }
            self.report(bytes, &trace, place, at as u64);
            at += trace.pickle.len;
            if !finished {
                return true;
            }
        }
        let rest = &bytes[at..];
        if stream == Stream::Pickles && at > 0 && rest.iter().any(|&b| b != 0 && !b.is_ascii_whitespace()) {
            let message = format!("{} bytes follow the last pickle", rest.len());
            self.find(Rule::BytesAfterPickle, place, Some(at as u64), message);
        }
        at > 0
    }

    /// A pickle starting anywhere in `bytes`: for streams in which pickles and raw data alternate.
    pub(super) fn sweep(&mut self, bytes: &[u8], place: &Place) {
        let mut at = 0;
        while let Some(found) = memchr::memchr(0x80, bytes.get(at..).unwrap_or_default()) {
            at += found;
            if matches!(bytes.get(at + 1), Some(2..=5)) {
                let Some(trace) = self.trace(&bytes[at..], place) else { return };
                let mut names = trace.seen.imports.iter().filter_map(|(_, id)| trace.pickle.global(*id));
                if names.all(|(module, name)| is_plausible(module, name)) {
                    self.pickles += u64::from(trace.error.is_none());
                    self.imports(&trace, place, at as u64);
                }
                if trace.error.is_none() {
                    at += trace.pickle.len;
                    continue;
                }
            }
            at += 1;
        }
    }

    /// The trace of the pickle at the start of `bytes`, while there is a budget for it.
    fn trace<'b>(&mut self, bytes: &'b [u8], place: &Place) -> Option<Trace<'b>> {
        if !self.afford(1) {
            self.out_of_budget(place);
            return None;
        }
        let trace = Trace::new(bytes);
        self.spend(trace.pickle.len as u64);
        Some(trace)
    }

    fn report(&mut self, bytes: &[u8], trace: &Trace<'_>, place: &Place, base: u64) {
        self.imports(trace, place, base);
        for &(offset, len) in &trace.seen.inner {
            let inner = crate::storage::slice(bytes, base + offset, len);
            if let (Some(inner), Some(place)) =
                (inner, place.inside(&format!("objects at {}", base + offset)))
            {
                self.pickles(inner, &place, Stream::Pickles);
            }
        }
        if let Some(values) = unfolded(&trace.pickle) {
            let message = format!("its {} values unfold to {values}", trace.pickle.node_count());
            self.find(Rule::Expansion, place, Some(base), message);
        }
        for &offset in &trace.seen.stray_protos {
            let message = "a PROTO opcode within the pickle".to_string();
            self.find(Rule::StrayProtocol, place, Some(base + offset), message);
        }
        if let Some(error) = &trace.error {
            let offset = error.offset.map(|offset| base + offset);
            let message = match trace.seen.imports.is_empty() && trace.seen.calls.is_empty() {
                true => error.what.clone(),
                false => format!("{}; what stands before it is executed", error.what),
            };
            self.find(Rule::BrokenPickle, place, offset, message);
        }
    }

    /// Imports, calls, and what their arguments hold.
    fn imports(&mut self, trace: &Trace<'_>, place: &Place, base: u64) {
        let pickle = &trace.pickle;
        // Which call uses which import first.
        let mut called: HashMap<(Cow<'_, str>, Cow<'_, str>), Id> = HashMap::new();
        for &(offset, id) in &trace.seen.calls {
            let Node::Object(object) = pickle.node(id) else { continue };
            match pickle.node(object.callable) {
                Node::Global(g) => {
                    called.entry((g.module.clone(), g.name.clone())).or_insert(id);
                    self.arguments(pickle, object, place, base + offset);
                }
                // The legacy form refers to classes so: ('module', class, file, source).
                Node::Persistent(pid) if is_class(pickle, *pid) => {}
                _ => {
                    let message = format!("calls what it computes: {}", call(pickle, object));
                    self.find(Rule::ComputedCall, place, Some(base + offset), message);
                }
            }
        }
        for &(offset, id) in &trace.seen.imports {
            let Node::Global(g) = pickle.node(id) else { continue };
            let (module, name) = (g.module.as_ref(), g.name.as_ref());
            let global = format!("{module}.{name}");
            let use_ = called.get(&(g.module.clone(), g.name.clone())).map(|&id| match pickle.node(id) {
                Node::Object(object) => format!("would call {}", call(pickle, object)),
                _ => String::new(),
            });
            let what = use_.unwrap_or_else(|| format!("would import {}", cut(&global)));
            let (rule, message) = match self.class(module, name, place) {
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
            if let Some((module, name)) = pickle.global(id) {
                let message = format!("sets attributes of {}", cut(&format!("{module}.{name}")));
                self.find(Rule::ChangedClass, place, Some(base + offset), message);
            }
        }
        // Byte strings may hold pickles that something else is to load.
        for index in 0..pickle.node_count() {
            if let Node::Bytes(bytes) = pickle.node(Id::at(index)) {
                self.embedded(bytes, place, base + pickle.offset_of(bytes).unwrap_or(0), false);
            }
        }
    }

    fn class(&self, module: &str, name: &str, place: &Place) -> Class {
        // TorchScript's own unpickler maps these to types of the archive and to lists; nothing is imported.
        if place.script && (module.starts_with("__torch__.") || module == "torch.jit._pickle") {
            return Class::Harmless;
        }
        let class = classify(module, name);
        match class != Class::Harmless && self.is_allowed(&format!("{module}.{name}")) {
            true => Class::Harmless,
            false => class,
        }
    }

    /// What harmless callables are given that need not be harmless.
    fn arguments(&mut self, pickle: &Pickle<'_>, object: &Object, place: &Place, offset: u64) {
        let args = pickle.sequence(object.args).unwrap_or(&[]);
        match (pickle.global(object.callable), args) {
            (Some(("torch.storage", "_load_from_bytes")), args) => {
                let bytes = args.first().and_then(|&id| byte_string(pickle, id));
                match bytes {
                    Some(bytes) => self.embedded(&bytes, place, offset, true),
                    None => {
                        let message =
                            "torch.storage._load_from_bytes loads bytes that it computes".to_string();
                        self.find(Rule::OpaqueContent, place, Some(offset), message);
                    }
                }
            }
            (Some(("_codecs", "encode")), &[_, encoding]) => {
                let encoding = pickle.str(encoding).unwrap_or("?");
                if !matches!(encoding, "latin1" | "latin-1" | "iso-8859-1" | "utf-8" | "utf8" | "ascii") {
                    let message = format!("encodes a string as {}", cut(encoding));
                    self.find(Rule::UnknownImport, place, Some(offset), message);
                }
            }
            _ => {}
        }
    }

    /// Looks into `bytes`, which are part of the pickle at `offset`; `loaded` when they are known to be loaded.
    fn embedded(&mut self, bytes: &[u8], place: &Place, offset: u64, loaded: bool) {
        let head = bytes.get(..4).unwrap_or_default();
        let like_one = matches!(head, [0x80, 2..=5, ..]) || head == crate::zip::LOCAL_HEADER;
        if !loaded && !like_one {
            return;
        }
        let Some(inner) = place.inside(&format!("bytes at {offset}")) else {
            let message = "pickles within pickles, deeper than is looked".to_string();
            self.find(Rule::OpaqueContent, place, Some(offset), message);
            return;
        };
        if loaded {
            self.loaded(bytes, &inner);
        } else if head == crate::zip::LOCAL_HEADER {
            self.zip(bytes, &inner);
        } else {
            self.pickles(bytes, &inner, Stream::Chance);
        }
    }
}

/// How many values the pickle is when every reference counts as a copy, where that is out of all proportion.
fn unfolded(pickle: &Pickle<'_>) -> Option<String> {
    const HARMLESS: f64 = 1e9;
    let mut sizes: Vec<f64> = Vec::with_capacity(pickle.node_count());
    for index in 0..pickle.node_count() {
        // What was made later than its container, as in cycles, is no part of an explosion.
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

/// Whether a persistent id stands for a class that the pickle imports.
fn is_class(pickle: &Pickle<'_>, id: Id) -> bool {
    let parts = pickle.sequence(id).unwrap_or(&[]);
    matches!(parts, &[kind, class, ..] if pickle.str(kind) == Some("module") && pickle.global(class).is_some())
}

/// The byte string that `id` is: written as such, or by way of a latin-1 string.
fn byte_string<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<Cow<'p, [u8]>> {
    match pickle.node(id) {
        Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
        Node::Str(text) => latin1(text).map(Cow::Owned),
        Node::Object(object) if pickle.global(object.callable) == Some(("_codecs", "encode")) => {
            let &[text, _] = pickle.sequence(object.args)? else { return None };
            latin1(pickle.str(text)?).map(Cow::Owned)
        }
        _ => None,
    }
}

fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// A call as Python would write it, cut where it gets long.
fn call(pickle: &Pickle<'_>, object: &Object) -> String {
    let mut out = String::new();
    write_call(pickle, object, 0, &mut out);
    cut(&out)
}

fn write_call(pickle: &Pickle<'_>, object: &Object, depth: usize, out: &mut String) {
    write(pickle, object.callable, depth, out);
    out.push('(');
    match pickle.sequence(object.args) {
        Some(args) => write_list(pickle, args, depth, out),
        None => write(pickle, object.args, depth, out),
    }
    out.push(')');
}

fn write_list(pickle: &Pickle<'_>, items: &[Id], depth: usize, out: &mut String) {
    for (i, &item) in items.iter().enumerate() {
        if out.len() > SHOWN {
            return;
        }
        if i > 0 {
            out.push_str(", ");
        }
        write(pickle, item, depth, out);
    }
}

fn write(pickle: &Pickle<'_>, id: Id, depth: usize, out: &mut String) {
    if out.len() > SHOWN || depth > 8 {
        return out.push('…');
    }
    match pickle.node(id) {
        Node::None => out.push_str("None"),
        Node::Bool(true) => out.push_str("True"),
        Node::Bool(false) => out.push_str("False"),
        Node::Int(i) => out.push_str(&i.to_string()),
        Node::Float(f) => out.push_str(&f.to_string()),
        Node::Str(s) => {
            out.push('\'');
            out.extend(s.chars().take(SHOWN).flat_map(char::escape_debug));
            out.push('\'');
        }
        Node::Bytes(b) => out.push_str(&format!("b'{}'", b[..b.len().min(SHOWN)].escape_ascii())),
        Node::Global(g) => {
            out.extend(g.module.chars().take(SHOWN));
            out.push('.');
            out.extend(g.name.chars().take(SHOWN));
        }
        Node::Object(object) => write_call(pickle, object, depth + 1, out),
        Node::Tuple(items) => {
            out.push('(');
            write_list(pickle, items, depth + 1, out);
            out.push(')');
        }
        Node::List(items) => {
            out.push('[');
            write_list(pickle, items, depth + 1, out);
            out.push(']');
        }
        Node::BigInt(_) | Node::Dict(_) | Node::Set(_) | Node::Persistent(_) | Node::Buffer => out.push('…'),
    }
}

/// `text` in a length that a line holds.
pub(super) fn cut(text: &str) -> String {
    let mut rest = text.chars();
    let start: String = rest.by_ref().take(SHOWN).collect();
    if rest.next().is_some() { start + "…" } else { start }
}
