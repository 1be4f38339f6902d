//! Calls that never end, or take more time and memory than any pickle's size tells.

use super::globals::BUILTINS;
use crate::pickle::{Id, Node, Object, Pickle};

/// Bytes, or elements, that a call may ask for by a number alone.
const MOST: i64 = 1 << 30;
/// Elements of an iterator.
const MOST_READ: i64 = 1 << 26;
/// The largest exponent of ten in a text that becomes a whole number.
const MOST_DIGITS: u64 = 100_000;

/// Numbers that a function of `math` multiplies with each other.
const MOST_FACTORS: i64 = 100_000;
/// Elements of an array, a tensor or a layer.
const MOST_ELEMENTS: f64 = (1u64 << 36) as f64;

/// Dimensions that are looked at.
const MOST_SIZES: usize = 64;

/// What makes the call `object` endless, or immense.
pub(super) fn endless(pickle: &Pickle<'_>, object: &Object) -> Option<&'static str> {
    let args = pickle.sequence(object.args)?;
    if args.iter().any(|id| counts(pickle, *id, MOST_READ)) {
        return Some("reads an iterator that never ends, or hardly ever");
    }
    let (module, name) = pickle.global(object.callable)?;
    let builtin = BUILTINS.contains(&module);
    let immense = |id: &Id| exponent(pickle, *id).is_some_and(|digits| digits > MOST_DIGITS);
    let over = |id: &Id, most: i64| over(pickle, *id, most);
    match (name, args) {
        ("bytes" | "bytearray", [only]) if builtin && over(only, MOST) => {
            Some("makes more than 1 GiB of zeros")
        }
        ("int" | "long" | "round", [first, ..]) if builtin && immense(first) => {
            Some("makes a whole number of more than 100000 digits")
        }
        ("Fraction", args) if module == "fractions" && args.iter().any(immense) => {
            Some("makes a whole number of more than 100000 digits")
        }
        (_, args) if module == "math" && args.iter().any(immense) => {
            Some("makes a whole number of more than 100000 digits")
        }
        ("factorial", [n]) | ("perm", [n]) | ("perm" | "comb", [n, _]) if module == "math" => {
            let few = |id: &Id| pickle.int(*id).is_some_and(|count| count <= MOST_FACTORS);
            let left = match (name, args) {
                ("comb", [_, k]) => pickle
                    .int(*n)
                    .zip(pickle.int(*k))
                    .is_some_and(|(n, k)| n.saturating_sub(k) <= MOST_FACTORS),
                _ => false,
            };
            (over(n, MOST_FACTORS) && !args.get(1).is_some_and(few) && !left)
                .then_some("multiplies more than 100000 numbers")
        }
        ("prod", [values, ..]) if module == "math" && counts(pickle, *values, MOST_FACTORS) => {
            Some("multiplies more than 100000 numbers")
        }
        // Each sum of lists is another list.
        ("sum", [_, start]) if builtin && !matches!(pickle.node(*start), Node::Int(_) | Node::Float(_)) => {
            Some("adds lists up one by one")
        }
        _ if sizes_by_arguments(module, name) => {
            (elements(pickle, args) > MOST_ELEMENTS).then_some("makes something of more than 2^36 elements")
        }
        _ => None,
    }
}

/// Whether the arguments of `module.name` are sizes.
fn sizes_by_arguments(module: &str, name: &str) -> bool {
    module.starts_with("torch.nn.modules.")
        || module == "torch.signal.windows.windows"
        || (module, name) == ("numpy", "ndarray")
        || matches!(module, "torch" | "torch.cuda") && (name.ends_with("Tensor") || name.ends_with("Storage"))
}

/// The product of the numbers that are `args`, or in a tuple among them.
fn elements(pickle: &Pickle<'_>, args: &[Id]) -> f64 {
    let size = |id: &Id| match pickle.node(*id) {
        Node::Int(size) if *size > 1 => *size as f64,
        Node::BigInt(_) => f64::INFINITY,
        _ => 1.0,
    };
    let all = |id: &Id| match pickle.node(*id) {
        Node::Tuple(sizes) => sizes.iter().take(MOST_SIZES).map(size).product(),
        _ => size(id),
    };
    args.iter().take(MOST_SIZES).map(all).product()
}

/// Whether the value at `id` is a whole number above `most`; those that are not read are.
fn over(pickle: &Pickle<'_>, id: Id, most: i64) -> bool {
    match pickle.node(id) {
        // Little-endian, and negative by its last bit.
        Node::BigInt(bytes) => bytes.last().is_some_and(|byte| byte & 0x80 == 0),
        _ => pickle.int(id).is_some_and(|number| number > most),
    }
}

/// Whether the value at `id` is an iterator that never ends, or only after more elements than `most`.
fn counts(pickle: &Pickle<'_>, id: Id, most: i64) -> bool {
    let Node::Object(object) = pickle.node(id) else { return false };
    let args = pickle.sequence(object.args).unwrap_or(&[]);
    let int = |id: &Id| pickle.int(*id);
    let large = |id: &Id| over(pickle, *id, most);
    match pickle.global(object.callable) {
        Some(("itertools", "count" | "cycle")) => true,
        Some(("itertools", "repeat")) => args.get(1).is_none_or(large),
        // Calls its argument until that gives a certain value.
        Some(("builtins" | "__builtin__", "iter")) => args.len() > 1,
        Some(("builtins" | "__builtin__", "range" | "xrange")) => match args {
            [stop] => large(stop),
            [start, stop, ..] => {
                let [start, stop] = [start, stop].map(|id| int(id).unwrap_or(i64::MAX));
                start.abs_diff(stop) > most as u64
            }
            [] => false,
        },
        Some(("ipaddress", "IPv4Network")) => args.first().is_some_and(|id| is_wide(pickle, *id, 32, most)),
        Some(("ipaddress", "IPv6Network")) => args.first().is_some_and(|id| is_wide(pickle, *id, 128, most)),
        _ => false,
    }
}

/// Whether the network at `id`, of addresses of so many `bits`, has more of them than `most`: `10.0.0.0/8`, or both parts in a tuple.
fn is_wide(pickle: &Pickle<'_>, id: Id, bits: u32, most: i64) -> bool {
    let prefix = match (pickle.str(id), pickle.sequence(id)) {
        (Some(text), _) => match text.split_once('/') {
            Some((_, prefix)) => prefix.parse().ok(),
            None => return false,
        },
        (None, Some(&[_, prefix])) => pickle.int(prefix).and_then(|prefix| u32::try_from(prefix).ok()),
        (None, Some(_)) => None,
        (None, None) => return false,
    };
    let free = bits.saturating_sub(prefix.unwrap_or(0));
    free >= most.ilog2()
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
