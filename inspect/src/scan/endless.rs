//! Calls that never end, or take more time and memory than any pickle's size tells.

use crate::pickle::{Id, Node, Object, Pickle};

/// Bytes, or elements, that a call may ask for by a number alone.
const MOST: i64 = 1 << 30;
/// The largest exponent of ten in a text that becomes a whole number.
const MOST_DIGITS: u64 = 100_000;

/// What makes the call `object` endless, or immense.
pub(super) fn endless(pickle: &Pickle<'_>, object: &Object) -> Option<&'static str> {
    let args = pickle.sequence(object.args)?;
    if args.iter().any(|id| counts(pickle, *id)) {
        return Some("reads an iterator that never ends, or hardly ever");
    }
    let (module, name) = pickle.global(object.callable)?;
    let builtin = matches!(module, "builtins" | "__builtin__");
    let immense = |id: &Id| exponent(pickle, *id).is_some_and(|digits| digits > MOST_DIGITS);
    match (name, args) {
        ("bytes" | "bytearray", [only]) if builtin && pickle.int(*only).is_some_and(|count| count > MOST) => {
            Some("makes more than 1 GiB of zeros")
        }
        ("int" | "long", [first, ..]) if builtin && immense(first) => {
            Some("makes a whole number of more than 100000 digits")
        }
        ("Fraction", args) if module == "fractions" && args.iter().any(immense) => {
            Some("makes a whole number of more than 100000 digits")
        }
        _ => None,
    }
}

/// Whether the value at `id` is an iterator that never ends, or only after more elements than fit into memory.
fn counts(pickle: &Pickle<'_>, id: Id) -> bool {
    let Node::Object(object) = pickle.node(id) else { return false };
    let args = pickle.sequence(object.args).unwrap_or(&[]);
    let int = |id: &Id| pickle.int(*id);
    // Whole numbers that are not read are larger.
    let large = |id: &Id| match pickle.node(*id) {
        Node::BigInt(_) => true,
        _ => int(id).is_some_and(|count| count > MOST),
    };
    match pickle.global(object.callable) {
        Some(("itertools", "count" | "cycle")) => true,
        Some(("itertools", "repeat")) => args.get(1).is_none_or(large),
        // Calls its argument until that gives a certain value.
        Some(("builtins" | "__builtin__", "iter")) => args.len() > 1,
        Some(("builtins" | "__builtin__", "range" | "xrange")) => match args {
            [stop] => large(stop),
            [start, stop, ..] => {
                let [start, stop] = [start, stop].map(|id| int(id).unwrap_or(i64::MAX));
                start.abs_diff(stop) > MOST as u64
            }
            [] => false,
        },
        _ => false,
    }
}

/// The exponent of ten of the text at `id`, such as `1e1000`, or of the number that is made of one.
fn exponent(pickle: &Pickle<'_>, id: Id) -> Option<u64> {
    let text = match pickle.node(id) {
        Node::Object(object) => match pickle.global(object.callable) {
            Some(("decimal" | "_decimal" | "_pydecimal", "Decimal")) => {
                pickle.str(*pickle.sequence(object.args)?.first()?)?
            }
            _ => return None,
        },
        _ => pickle.str(id)?,
    };
    let (_, exponent) = text.trim().rsplit_once(['e', 'E'])?;
    let digits: String = exponent.chars().filter(|c| !"+-_".contains(*c)).collect();
    digits.chars().all(|c| c.is_ascii_digit()).then(|| digits.parse().unwrap_or(u64::MAX))
}
