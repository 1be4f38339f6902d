//! Calls that pickles make: the byte strings that some of them give, and what a message shows of them.

use std::borrow::Cow;

use super::globals::BUILTINS;
use crate::pickle::{Id, Node, Object, Pickle, Trace};

/// Characters of a call that a message shows.
const SHOWN: usize = 160;
pub(super) const LATIN1: [&str; 3] = ["latin1", "latin-1", "iso-8859-1"];
pub(super) const UTF8: [&str; 3] = ["utf-8", "utf8", "ascii"];

/// Whether `object` is a call that gives a byte string.
pub(super) fn makes_bytes(pickle: &Pickle<'_>, object: &Object) -> bool {
    match pickle.global(object.callable) {
        Some(("_codecs", "encode")) => true,
        Some((module, "bytes" | "bytearray")) => BUILTINS.contains(&module),
        _ => false,
    }
}

/// Whether the value of `id` is what it was `at` this offset: what changes after a call is not what the call got.
pub(super) fn known_at(trace: &Trace<'_>, id: Id, at: u64) -> bool {
    trace.seen.changed.get(&id.index()).is_none_or(|&changed| changed < at)
}

/// The byte string at `id`, written as such, encoded from a latin-1 string, or made of integers, as a call at the offset
/// `at` gets it.
pub(super) fn byte_string<'p>(trace: &'p Trace<'_>, id: Id, at: u64, depth: usize) -> Option<Cow<'p, [u8]>> {
    const DEEPEST: usize = 8;
    if !known_at(trace, id, at) {
        return None;
    }
    let pickle = &trace.pickle;
    match pickle.node(id) {
        Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
        Node::Str(text) => latin1(text).map(Cow::Owned),
        Node::Object(object) if object.kwargs.is_none() && makes_bytes(pickle, object) && depth < DEEPEST => {
            // Calls are in the order of their ids.
            let made = trace.seen.calls.binary_search_by_key(&id.index(), |(_, call)| call.index()).ok()?;
            let made = trace.seen.calls[made].0;
            let args = pickle.sequence(object.args).filter(|_| known_at(trace, object.args, made))?;
            if args.iter().any(|&argument| pickle.str(argument).is_some() && !known_at(trace, argument, made))
            {
                return None;
            }
            let mut bytes = match *args {
                [] => Cow::Borrowed(&[][..]),
                [only] if pickle.sequence(only).is_some() => {
                    let items = pickle.sequence(only).filter(|_| known_at(trace, only, made))?;
                    Cow::Owned(integers(trace, items, made)?)
                }
                [only] if pickle.str(only).is_some() => Cow::Borrowed(pickle.str(only)?.as_bytes()),
                [only] => byte_string(trace, only, made, depth + 1)?,
                [text, encoding] => encoded(pickle.str(text)?, pickle.str(encoding)?, "strict")?,
                [text, encoding, errors] => {
                    encoded(pickle.str(text)?, pickle.str(encoding)?, pickle.str(errors)?)?
                }
                _ => return None,
            };
            // A bytearray takes more bytes by APPEND.
            if !object.items.is_empty() {
                bytes.to_mut().extend(integers(trace, &object.items, at)?);
            }
            Some(bytes)
        }
        _ => None,
    }
}

/// `text.encode(encoding, errors)`; `None` where Python raises an error, or where the handler of errors is unknown.
pub(super) fn encoded<'p>(text: &'p str, encoding: &str, errors: &str) -> Option<Cow<'p, [u8]>> {
    let name: String =
        encoding.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let most = match &*name {
        "utf8" | "u8" | "cp65001" => return Some(Cow::Borrowed(text.as_bytes())),
        "ascii" | "usascii" | "646" => 0x7f,
        "latin1" | "latin" | "l1" | "iso88591" | "88591" | "cp819" => 0xff,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match (u8::try_from(u32::from(c)).ok().filter(|byte| *byte <= most), errors) {
            (Some(byte), _) => bytes.push(byte),
            (None, "ignore") => {}
            (None, "replace") => bytes.push(b'?'),
            (None, _) => return None,
        }
    }
    Some(Cow::Owned(bytes))
}

/// The bytes that are `items`, as a call at the offset `at` gets them.
fn integers(trace: &Trace<'_>, items: &[Id], at: u64) -> Option<Vec<u8>> {
    let known = |id: &&Id| known_at(trace, **id, at);
    if items.iter().filter(known).count() < items.len() {
        return None;
    }
    items.iter().map(|&id| u8::try_from(trace.pickle.int(id)?).ok()).collect()
}

pub(super) fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// A call as Python would write it, cut where it gets long.
pub(super) fn call(pickle: &Pickle<'_>, object: &Object) -> String {
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

/// `text`, shortened to fit a line.
pub(super) fn cut(text: &str) -> String {
    let mut rest = text.chars();
    let start: String = rest.by_ref().take(SHOWN).collect();
    if rest.next().is_some() { start + "…" } else { start }
}
