//! Statistics of generated text that detect collapse ("return return return") and gibberish.

use std::collections::HashSet;

use serde::Serialize;

use crate::tokenizer::Tokenizer;

/// The longest pattern whose repetition is detected, in tokens.
const LONGEST_PERIOD: usize = 16;
/// A pattern that repeats this many times is a loop.
const REPEATS: usize = 4;
/// With fewer tokens, or words, there is no verdict.
const FEWEST: usize = 8;
/// Share of the tokens in a loop, from which on the text has collapsed.
const MOST_LOOP: f64 = 0.5;
/// Share of broken characters, from which on text is gibberish.
const MOST_BROKEN: f64 = 0.05;
/// Share of words that the vocabulary knows, below which text is gibberish.
const FEWEST_KNOWN: f64 = 0.25;
/// Mean probability of the most likely token, below which the model does not know what to write.
const LEAST_CONFIDENCE: f64 = 0.05;
/// Letters of a word on average, from which on they are strung together at random.
const LONGEST_WORDS: f64 = 16.0;

/// Statistics of a completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Measures {
    /// Its number of tokens.
    pub tokens: usize,
    /// Share of its tokens that are different from each other.
    pub distinct: f64,
    /// Share of its tokens in the longest run in which at most 16 of them are repeated, four times at least.
    pub looped: f64,
    /// The repeated text.
    pub pattern: Option<String>,
    /// Share of characters that are not text: U+FFFD and control characters.
    pub broken: f64,
    /// Share of words that are tokens of the vocabulary by themselves; `None` for too few words.
    pub known_words: Option<f64>,
    /// Letters of a word on average.
    pub word_length: f64,
    /// Mean probability of the tokens, each the most likely one.
    pub confidence: f64,
}

impl Measures {
    /// The statistics of `text`, which is `ids` decoded, chosen with these probabilities.
    pub(super) fn of(ids: &[u32], text: &str, confidence: &[f32], tokenizer: &Tokenizer) -> Self {
        let share = |part: usize, all: usize| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let (run, period, start) = longest_loop(ids);
        let pattern = (run > 0).then(|| tokenizer.decode(&ids[start..][..period]));
        let is_broken = |c: &char| {
            *c == char::REPLACEMENT_CHARACTER || (c.is_control() && !matches!(c, '\n' | '\t' | '\r'))
        };
        let words: Vec<&str> =
            text.split(|c: char| !c.is_alphabetic()).filter(|word| word.chars().count() > 1).collect();
        let known = words.iter().filter(|word| is_known(word, tokenizer)).count();
        let letters: usize = words.iter().map(|word| word.chars().count()).sum();
        let sum: f64 = confidence.iter().map(|p| f64::from(*p)).filter(|p| p.is_finite()).sum();
        Measures {
            tokens: ids.len(),
            distinct: share(ids.iter().collect::<HashSet<_>>().len(), ids.len()),
            looped: share(run, ids.len()),
            pattern,
            broken: share(text.chars().filter(is_broken).count(), text.chars().count()),
            known_words: (words.len() >= FEWEST).then(|| share(known, words.len())),
            word_length: share(letters, words.len()),
            confidence: if confidence.is_empty() { 0.0 } else { sum / confidence.len() as f64 },
        }
    }

    /// What is wrong with the form of the text, regardless of its content.
    pub(super) fn fault(&self) -> Option<String> {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        if self.tokens == 0 {
            return Some("nothing was written".into());
        }
        if self.tokens >= FEWEST && self.looped >= MOST_LOOP {
            let pattern = self.pattern.as_deref().unwrap_or_default();
            let pattern = if pattern.trim().is_empty() { pattern } else { pattern.trim() };
            let pattern: String = pattern.escape_debug().take(40).collect();
            return Some(format!("collapse: {} of the tokens repeat `{pattern}`", percent(self.looped)));
        }
        if self.broken > MOST_BROKEN {
            return Some(format!("gibberish: {} of the characters are not text", percent(self.broken)));
        }
        if let Some(known) = self.known_words.filter(|known| *known < FEWEST_KNOWN) {
            return Some(format!("gibberish: only {} of the words are in the vocabulary", percent(known)));
        }
        if self.word_length > LONGEST_WORDS {
            return Some(format!("gibberish: words of {:.0} letters on average", self.word_length));
        }
        (self.confidence < LEAST_CONFIDENCE).then(|| {
            format!(
                "gibberish: the most likely token has a probability of {} on average",
                percent(self.confidence)
            )
        })
    }
}

/// Whether a word is one token, alone or after a space, in this case or in lower case.
fn is_known(word: &str, tokenizer: &Tokenizer) -> bool {
    [format!(" {word}"), word.to_string(), format!(" {}", word.to_lowercase()), word.to_lowercase()]
        .iter()
        .any(|word| tokenizer.is_word(word))
}

/// Length, period and start of the longest run of `ids` in which a pattern is repeated.
fn longest_loop(ids: &[u32]) -> (usize, usize, usize) {
    let mut best = (0, 0, 0);
    for period in 1..=LONGEST_PERIOD.min(ids.len() / REPEATS) {
        let mut run = 0;
        for at in period..ids.len() {
            run = if ids[at] == ids[at - period] { run + 1 } else { 0 };
            let len = run + period;
            if run >= (REPEATS - 1) * period && len > best.0 {
                best = (len, period, at + 1 - len);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_found_wherever_they_are() {
        assert_eq!(longest_loop(&[7; 10]), (10, 1, 0));
        assert_eq!(longest_loop(&[1, 2, 3, 4, 5, 6, 7]), (0, 0, 0));
        assert_eq!(longest_loop(&[9, 8, 1, 2, 1, 2, 1, 2, 1, 2, 5]), (8, 2, 2));
        assert_eq!(longest_loop(&[1, 2, 1, 2, 1, 2]), (0, 0, 0), "three times is no loop yet");
        assert_eq!(longest_loop(&[]), (0, 0, 0));
    }
}
