//! Which tensors are the same weight of different layers, blocks or experts.

use std::collections::HashMap;

use super::words::is_number;

/// The same weight in every layer and every expert: `name` with its numbered parts replaced by `*`.
pub fn family(name: &str) -> String {
    let mut family = String::with_capacity(name.len());
    for part in name.split('.') {
        if !family.is_empty() {
            family.push('.');
        }
        match of_expert(part) {
            Some((word, _)) => family.extend([word, "*"]),
            None => family.push_str(if is_number(part) { "*" } else { part }),
        }
    }
    family
}

/// The same weight in every layer: `name` with the number of its layer replaced by `*`. That is the first number that
/// stands before a module, and not before the last part: children of a sequence are no layers.
pub fn sibling(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('.').collect();
    let layer = parts.iter().position(|part| is_number(part)).filter(|at| at + 2 < parts.len())?;
    parts[layer] = "*";
    Some(parts.join("."))
}

/// Which expert of its layer `name` is of.
pub fn expert(name: &str) -> Option<u64> {
    let mut before = "";
    for part in name.split('.') {
        if is_number(part) && before.contains("expert") {
            return part.parse().ok();
        }
        if let Some((_, number)) = of_expert(part) {
            return Some(number);
        }
        before = part;
    }
    None
}

/// The word and the number of a module that is called so after the expert it is, such as `expert_1`.
pub fn of_expert(part: &str) -> Option<(&str, u64)> {
    let word = part.trim_end_matches(|c: char| c.is_ascii_digit());
    let known = matches!(word, "expert" | "expert_" | "experts_");
    known.then(|| Some((word, part[word.len()..].parse().ok()?)))?
}

/// Tensors by family.
pub fn families<'n>(names: impl Iterator<Item = &'n str>) -> HashMap<String, Vec<usize>> {
    let mut families: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, name) in names.enumerate() {
        families.entry(family(name)).or_default().push(i);
    }
    families
}
