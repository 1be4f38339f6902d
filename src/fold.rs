//! Rows whose names differ only in numbers, folded into one: `layers.{0..11}.mlp.gate_proj.weight`.

use std::collections::HashMap;
use std::hash::Hash;

/// Folds `members` by the pattern of their names and by the result of `key`, in order of first appearance. The name of
/// a row covers all its members.
pub fn fold<'m, T, K: Copy + Eq + Hash>(
    members: &'m [T],
    key: impl Fn(&'m T) -> (&'m str, K),
) -> Vec<(String, Vec<&'m T>)> {
    let pattern = |name: &str| -> Vec<String> {
        name.split('.').map(|part| if is_number(part) { "#".into() } else { part.to_string() }).collect()
    };
    let mut order: Vec<(Vec<String>, K)> = Vec::new();
    let mut folded: HashMap<(Vec<String>, K), Vec<&'m T>> = HashMap::new();
    for member in members {
        let (name, kind) = key(member);
        let key = (pattern(name), kind);
        if !folded.contains_key(&key) {
            order.push(key.clone());
        }
        folded.entry(key).or_default().push(member);
    }
    order
        .into_iter()
        .map(|place| {
            let members = folded.remove(&place).unwrap_or_default();
            let parts: Vec<Vec<&str>> = members.iter().map(|m| key(m).0.split('.').collect()).collect();
            let name: Vec<String> =
                (0..place.0.len()).map(|i| span(&parts.iter().map(|p| p[i]).collect::<Vec<_>>())).collect();
            (name.join("."), members)
        })
        .collect()
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.len() < 10 && part.bytes().all(|b| b.is_ascii_digit())
}

/// `{0..11}` for a run of numbers, `{0,2,5}` with gaps, the text itself when all are equal.
fn span(parts: &[&str]) -> String {
    if parts.iter().all(|p| *p == parts[0]) {
        return parts[0].to_string();
    }
    let mut numbers: Vec<u64> = parts.iter().filter_map(|p| p.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    if last - first + 1 == numbers.len() as u64 || numbers.len() > 4 {
        format!("{{{first}..{last}}}")
    } else {
        let list: Vec<String> = numbers.iter().map(u64::to_string).collect();
        format!("{{{}}}", list.join(","))
    }
}
