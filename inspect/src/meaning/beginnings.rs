//! What the names of two checkpoints begin with where one network has other names in each: `netG.` of a dict of several
//! networks, `0.` of a list, `net.backbone.` of a trainer's class. No list of words has all of these; what shows them is
//! that names match without them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::wrappers::{is_average, unwrapped};
use crate::group::is_average_key;

/// Names that match, so that it is no chance; more where both sides begin with something, as two last layers of other names
/// do.
const MATCHING: usize = 2;
const MATCHING_BOTH: usize = 4;

/// Names that nothing has in common with those of another checkpoint, and what any name is called in both.
#[non_exhaustive]
pub struct Side<'n> {
    /// They, as the checkpoint has them.
    pub names: &'n [&'n str],
    /// What a name without wrappers is called in both.
    pub canonical: &'n dyn Fn(&str) -> String,
}

impl<'n> Side<'n> {
    /// The names, and what any name is called in both.
    pub fn new(names: &'n [&'n str], canonical: &'n dyn Fn(&str) -> String) -> Self {
        Side { names, canonical }
    }

    /// What at least `least` of the names begin with, nothing among it, up to dots.
    fn beginnings(&self, least: usize) -> Vec<&'n str> {
        let mut uses: BTreeMap<&str, usize> = BTreeMap::from([("", self.names.len())]);
        for name in self.names {
            for (dot, _) in name.match_indices('.') {
                *uses.entry(&name[..=dot]).or_default() += 1;
            }
        }
        uses.into_iter().filter(|(_, times)| *times >= least).map(|(beginning, _)| beginning).collect()
    }

    /// Where what each name is called that begins with `beginning` is, without it; of names that are called the same, none.
    fn without(&self, beginning: &str) -> HashMap<String, Option<usize>> {
        let mut called: HashMap<String, Option<usize>> = HashMap::new();
        for (i, name) in self.names.iter().enumerate() {
            let Some(rest) = name.strip_prefix(beginning) else { continue };
            let bare: Cow<'_, str> = unwrapped(rest);
            called.entry((self.canonical)(&bare)).and_modify(|at| *at = None).or_insert(Some(i));
        }
        called
    }
}

/// Whether what begins so follows a network as its average.
fn is_of_average(beginning: &str) -> bool {
    is_average(&format!("{beginning}weight")) || beginning.split('.').any(is_average_key)
}

/// The places of the names of `a` and `b` that are of one weight once each side loses one beginning: that with which most
/// match, at least half of what either side has, and of which most have one shape. None where several do that equally well and say
/// different things.
pub fn matched(
    a: &Side<'_>,
    b: &Side<'_>,
    is_same_shape: &dyn Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let least = a.names.len().min(b.names.len()).div_ceil(2).max(MATCHING);
    let sides = [a, b].map(|side| -> Vec<_> {
        let beginnings = side.beginnings(least).into_iter();
        beginnings.map(|beginning| (beginning, side.without(beginning))).collect()
    });
    let mut found = Vec::new();
    for (of_a, in_a) in &sides[0] {
        for (of_b, in_b) in &sides[1] {
            let mut pairs: Vec<(usize, usize)> =
                in_a.iter().filter_map(|(name, at)| Some(((*at)?, (*in_b.get(name)?)?))).collect();
            let alike = pairs.iter().filter(|(i, j)| is_same_shape(*i, *j)).count();
            let both = !of_a.is_empty() && !of_b.is_empty();
            if pairs.len() < if both { least.max(MATCHING_BOTH) } else { least } || alike * 2 < pairs.len() {
                continue;
            }
            pairs.sort_unstable();
            let averages = [of_a, of_b].into_iter().filter(|beginning| is_of_average(beginning)).count();
            found.push(((alike, pairs.len(), std::cmp::Reverse(averages)), pairs));
        }
    }
    let Some(best) = found.iter().map(|(score, _)| *score).max() else { return Vec::new() };
    let mut best = found.into_iter().filter(|(score, _)| *score == best).map(|(_, pairs)| pairs);
    let first = best.next().unwrap_or_default();
    if best.all(|pairs| pairs == first) { first } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'n>(a: &'n [&'n str], b: &'n [&'n str]) -> Vec<(&'n str, &'n str)> {
        let [a, b] = [a, b].map(|names| Side { names, canonical: &str::to_string });
        matched(&a, &b, &|_, _| true).into_iter().map(|(i, j)| (a.names[i], b.names[j])).collect()
    }

    #[test]
    fn a_beginning_is_what_makes_most_names_match() {
        let plain = ["conv.weight", "conv.bias", "fc.weight"];
        for begun in ["netG.", "0.", "student.module.backbone.", "net.backbone.", "a.b.c."] {
            let names: Vec<String> = plain.iter().map(|name| format!("{begun}{name}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(found(&plain, &names).len(), 3, "{begun}");
            assert_eq!(found(&names, &plain).len(), 3, "{begun}");
        }
        // One network of two, and its average beside it.
        let two = ["netG.conv.weight", "netG.conv.bias", "netG.fc.weight", "netD.a.weight", "netD.b.weight"];
        assert_eq!(found(&plain, &two).len(), 3);
        let average = ["ema_g.conv.weight", "ema_g.conv.bias", "ema_g.fc.weight"];
        let both: Vec<&str> = two.into_iter().chain(average).collect();
        assert!(found(&plain, &both).iter().all(|(_, name)| name.starts_with("netG.")));
        // Two networks that are alike.
        assert_eq!(found(&["0.weight", "0.bias"], &["a.0.weight", "a.0.bias", "b.0.weight", "b.0.bias"]), []);
        // Two last layers of other names.
        assert_eq!(found(&["head.weight", "head.bias"], &["fc.weight", "fc.bias"]), []);
        // Too little to tell.
        assert_eq!(found(&["fc.weight"], &["head.fc.weight"]), []);
        assert_eq!(found(&plain, &["x.y.weight", "x.z.weight", "x.fc.weight"]), []);
    }
}
