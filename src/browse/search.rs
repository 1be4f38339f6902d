//! What a search finds: names that have the letters of each word in their order, best first.

/// Letters of a name, and of a word, that are aligned as well as they can be; beyond, the first place of each is taken.
const ALIGNED: usize = 512;

/// Points for a letter found, for one at the start of a part of the name, and for one right behind the last.
const LETTER: i32 = 16;
const START: i32 = 10;
const NEXT: i32 = 12;
/// Points that a letter passed over between two found ones costs.
const GAP: i32 = 1;

/// A query: words between spaces, all of which must be found.
pub struct Query(Vec<Word>);

struct Word {
    letters: Vec<char>,
    kind: Kind,
    /// Names that have it are left out.
    unwanted: bool,
}

/// How a word is looked for.
#[derive(PartialEq)]
enum Kind {
    Scattered,
    Whole,
    Beginning,
    Ending,
}

/// A name that a query finds.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// The larger, the better.
    pub score: i32,
    /// Its characters that the query's letters are found at, in order.
    pub hits: Vec<usize>,
}

/// Letters that are the same but for their case are one.
fn folded(text: &str) -> Vec<char> {
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

impl Query {
    /// Words as they are typed: `!bias` leaves out, `'q_proj` is there as it is, `^` begins a name and `$` ends it.
    pub fn new(text: &str) -> Query {
        let word = |text: &str| {
            let (unwanted, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
            let (kind, text) = if let Some(rest) = text.strip_prefix('\'') {
                (Kind::Whole, rest)
            } else if let Some(rest) = text.strip_prefix('^') {
                (Kind::Beginning, rest)
            } else if let Some(rest) = text.strip_suffix('$') {
                (Kind::Ending, rest)
            } else if unwanted {
                (Kind::Whole, text)
            } else {
                (Kind::Scattered, text)
            };
            Word { letters: folded(text), kind, unwanted }
        };
        Query(text.split_whitespace().map(word).filter(|word| !word.letters.is_empty()).collect())
    }

    /// Where it is found in `name`; `None` where it is not.
    pub fn find(&self, name: &str) -> Option<Found> {
        let name = folded(name);
        let mut found = Found { score: 0, hits: Vec::new() };
        for word in &self.0 {
            match (word.find(&name), word.unwanted) {
                (Some((score, hits)), false) => {
                    found.score += score;
                    found.hits.extend(hits);
                }
                (None, true) => {}
                _ => return None,
            }
        }
        found.hits.sort_unstable();
        found.hits.dedup();
        Some(found)
    }
}

impl Word {
    fn find(&self, name: &[char]) -> Option<(i32, Vec<usize>)> {
        let word = &self.letters;
        let at = match self.kind {
            Kind::Scattered => return scattered(word, name),
            Kind::Whole => name.windows(word.len()).position(|part| part == word)?,
            Kind::Beginning => name.starts_with(word).then_some(0)?,
            Kind::Ending => name.ends_with(word).then(|| name.len() - word.len())?,
        };
        let hits: Vec<usize> = (at..at + word.len()).collect();
        Some((points(name, &hits), hits))
    }
}

/// Whether a part of the name starts at `at`: behind a dot or the like, or between letters and digits.
fn is_start(name: &[char], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|i| name[i]) else { return true };
    !before.is_alphanumeric() || before.is_numeric() != name[at].is_numeric()
}

fn letter(name: &[char], at: usize) -> i32 {
    if is_start(name, at) { LETTER + START } else { LETTER }
}

/// What letters found at `hits` are worth.
fn points(name: &[char], hits: &[usize]) -> i32 {
    let letters: i32 = hits.iter().map(|&at| letter(name, at)).sum();
    let between = hits.windows(2).map(|pair| match pair[1] - pair[0] - 1 {
        0 => NEXT,
        passed => -GAP * i32::try_from(passed).unwrap_or(i32::MAX).min(1 << 20),
    });
    between.fold(letters, i32::saturating_add)
}

/// The letters of `word` in their order, where they are worth most.
fn scattered(word: &[char], name: &[char]) -> Option<(i32, Vec<usize>)> {
    let mut rest = name.iter().enumerate();
    let first: Option<Vec<usize>> =
        word.iter().map(|letter| rest.find(|(_, c)| *c == letter).map(|(at, _)| at)).collect();
    let first = first?;
    if name.len() > ALIGNED || word.len() > ALIGNED {
        return Some((points(name, &first), first));
    }
    const NONE: i32 = i32::MIN / 2;
    let wide = name.len();
    // By letter of the word and of the name: the best alignment that ends there, and the best that ends there or before
    // at the cost of what was passed since.
    let mut ends = vec![NONE; word.len() * wide];
    let mut open = vec![NONE; word.len() * wide];
    for (j, wanted) in word.iter().enumerate() {
        for at in first[j]..wide {
            let here = j * wide + at;
            if name[at] == *wanted {
                let before = match (j, at) {
                    (0, _) => 0,
                    (_, 0) => NONE,
                    _ => (ends[here - wide - 1] + NEXT).max(open[here - wide - 1]),
                };
                ends[here] = if before <= NONE { NONE } else { before + letter(name, at) };
            }
            open[here] = if at > 0 { ends[here].max(open[here - 1] - GAP) } else { ends[here] };
        }
    }
    let last = (word.len() - 1) * wide;
    let end = (0..wide).max_by_key(|&at| (ends[last + at], std::cmp::Reverse(at)))?;
    let mut hits = vec![end];
    for j in (0..word.len() - 1).rev() {
        let next = hits[hits.len() - 1] - 1;
        let row = &ends[j * wide..(j + 1) * wide];
        let adjacent = row[next] + NEXT >= open[j * wide + next];
        let at = if adjacent {
            next
        } else {
            (0..=next).rev().find(|&at| row[at] - GAP * (next - at) as i32 == open[j * wide + next])?
        };
        hits.push(at);
    }
    hits.reverse();
    Some((ends[last + end], hits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: &str = "layers.1.mlp.gate_proj.weight";

    fn shown(query: &str, name: &str) -> Option<String> {
        let found = Query::new(query).find(name)?;
        Some(name.chars().enumerate().map(|(i, c)| if found.hits.contains(&i) { c } else { '·' }).collect())
    }

    #[test]
    fn letters_in_order_are_enough_and_stand_where_parts_begin() {
        assert_eq!(shown("l1gate", GATE).unwrap(), "l······1·····gate············");
        assert_eq!(shown("GATE", GATE).unwrap(), "·············gate············");
        assert_eq!(shown("mw", GATE).unwrap(), "·········m·············w·····");
        assert_eq!(shown("tag", GATE), None);
        assert_eq!(shown("é", "caf\u{c9}").unwrap(), "···\u{c9}");
    }

    #[test]
    fn words_are_all_found_as_they_are_marked() {
        assert!(shown("gate mlp", GATE).is_some());
        assert_eq!(shown("gate attn", GATE), None);
        assert_eq!(shown("'ate_p", GATE).unwrap(), "··············ate_p··········");
        assert_eq!(shown("'gproj", GATE), None);
        assert!(shown("^layers weight$", GATE).is_some());
        assert_eq!(shown("^mlp", GATE), None);
        assert_eq!(shown("mlp$", GATE), None);
        assert_eq!(shown("!gate", GATE), None);
        assert_eq!(shown("!bias ! '", GATE).unwrap(), "·".repeat(GATE.len()));
    }

    #[test]
    fn what_is_together_comes_before_what_is_scattered() {
        let score = |query: &str, name: &str| Query::new(query).find(name).unwrap().score;
        assert!(score("gate", GATE) > score("gate", "g.x.att.weight_e"));
        assert!(score("l1", "layers.1.x") > score("l1", "layers.21.x"));
        assert!(score("norm", "norm.weight") > score("norm", "n.o.r.m_and_so"));
    }

    /// By trying every place.
    fn best(word: &[char], name: &[char], from: usize, hits: &mut Vec<usize>) -> Option<i32> {
        if hits.len() == word.len() {
            return Some(points(name, hits));
        }
        let mut most = None;
        for at in from..name.len() {
            if name[at] == word[hits.len()] {
                hits.push(at);
                most = most.max(best(word, name, at + 1, hits));
                hits.pop();
            }
        }
        most
    }

    #[test]
    fn the_alignment_is_the_best_there_is() {
        let mut state = 7u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..2000 {
            let mut text = |n: u64| -> Vec<char> {
                let length = 1 + random(n);
                (0..length).map(|_| ['a', 'b', '.', '1'][random(4) as usize]).collect()
            };
            let (word, name) = (text(4), text(12));
            let found = scattered(&word, &name);
            assert_eq!(
                found.as_ref().map(|f| f.0),
                best(&word, &name, 0, &mut Vec::new()),
                "{word:?} {name:?}"
            );
            if let Some((score, hits)) = found {
                assert_eq!(score, points(&name, &hits), "{word:?} {name:?} {hits:?}");
                assert!(hits.iter().zip(&word).all(|(&at, c)| name[at] == *c) && hits.is_sorted());
            }
        }
    }

    #[test]
    fn a_long_name_is_searched_too() {
        let name = format!("{}.end", "x".repeat(100_000));
        assert_eq!(Query::new("xend").find(&name).unwrap().hits.len(), 4);
    }
}
