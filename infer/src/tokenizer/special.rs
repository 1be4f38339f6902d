//! Special tokens: found in text, and known by their usual texts.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};
use ckpt_inspect::vocabulary::{END_TEXTS, Role, TokenType, Vocabulary};

use super::FimTokens;

/// Tokens that are found in text before it is split: those that a file adds always, control tokens on request.
#[derive(Debug)]
pub(super) struct Partition {
    ids: HashMap<String, u32>,
    added: Finder,
    all: Finder,
}

#[derive(Debug)]
struct Finder {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

impl Finder {
    fn new(tokens: &[(&str, u32)]) -> Self {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, _)| text))
            .ok()
            .filter(|_| !tokens.is_empty());
        Finder { automaton, ids: tokens.iter().map(|(_, id)| *id).collect() }
    }
}

impl Partition {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let (mut added, mut all, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for (id, token) in (0..).zip(&vocabulary.tokens) {
            let Ok(text) = std::str::from_utf8(&token.text) else { continue };
            match token.kind {
                _ if text.is_empty() => continue,
                // The cutter finds it.
                TokenType::UserDefined if vocabulary.within.binary_search(&id).is_ok() => {
                    known.push((text, id));
                    continue;
                }
                TokenType::UserDefined => added.push((text, id)),
                TokenType::Control | TokenType::Unknown => {}
                _ => continue,
            }
            known.push((text, id));
            all.push((text, id));
        }
        let ids = known.iter().rev().map(|(text, id)| (text.to_string(), *id)).collect();
        Partition { ids, added: Finder::new(&added), all: Finder::new(&all) }
    }

    /// The id of a special token.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// `text` in order; with `parsed`, control tokens are found too.
    pub fn parts<'t>(&self, text: &'t str, parsed: bool) -> Vec<Part<'t>> {
        let finder = if parsed { &self.all } else { &self.added };
        let mut parts = Vec::new();
        let mut at = 0;
        let matches = finder.automaton.iter().flat_map(|automaton| automaton.find_iter(text));
        for found in matches {
            if found.start() > at {
                parts.push(Part::Text(&text[at..found.start()]));
            }
            parts.push(Part::Token(finder.ids[found.pattern().as_usize()]));
            at = found.end();
        }
        if at < text.len() {
            parts.push(Part::Text(&text[at..]));
        }
        parts
    }
}

/// Tokens that end an answer: as the files say, and those with a usual text.
pub(super) fn stops(vocabulary: &Vocabulary, partition: &Partition) -> Vec<u32> {
    let usual = END_TEXTS.iter().filter_map(|text| partition.id(text));
    let said = vocabulary.role(Role::Eos).into_iter().chain(vocabulary.ends.iter().copied());
    let mut ids: Vec<u32> = said.chain(usual).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Usual texts of the tokens before prefix, suffix and middle of a text whose middle is to be filled in.
pub const FIM_TEXTS: [[&str; 3]; 9] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    ["<|prefix|>", "<|suffix|>", "<|middle|>"],
];

/// Fill-in-the-middle tokens: as the file says, else those with a usual text.
pub(super) fn fim(vocabulary: &Vocabulary, partition: &Partition) -> Option<FimTokens> {
    let by_key = |which: [&str; 3]| {
        let [prefix, suffix, middle] =
            which.map(|part| key_id(vocabulary, &format!("tokenizer.ggml.{part}_token_id")));
        Some(FimTokens { prefix: prefix?, suffix: suffix?, middle: middle? })
    };
    let by_text = || {
        FIM_TEXTS.iter().find_map(|texts| {
            let [prefix, suffix, middle] = texts.map(|text| partition.id(text));
            Some(FimTokens { prefix: prefix?, suffix: suffix?, middle: middle? })
        })
    };
    by_key(["fim_pre", "fim_suf", "fim_mid"])
        .or_else(|| by_key(["prefix", "suffix", "middle"]))
        .or_else(by_text)
}

fn key_id(vocabulary: &Vocabulary, key: &str) -> Option<u32> {
    let id = vocabulary.keys.get(key)?.as_i64()?;
    u32::try_from(id).ok().filter(|id| (*id as usize) < vocabulary.tokens.len())
}
