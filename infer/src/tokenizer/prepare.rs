//! What SentencePiece does with text before it is cut (`Normalizer::Normalize` in its `normalizer.cc`): characters are replaced by the
//! rules of a precompiled map, extra spaces dropped, spaces written as ▁, and one put before or after the text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Anchored, Input, MatchKind, StartKind};
use ckpt_inspect::vocabulary::Vocabulary;

/// Rules that match at one place, of which it looks at no more (`kMaxTrieResultsSize`).
const MOST_RULES: usize = 32;
/// No rule writes more, so that text does not grow beyond measure.
const LONGEST_RULE: usize = 1 << 12;

/// Prepared text.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub text: String,
    /// What each of its bytes was written for: bytes of the text that it was.
    from: Vec<Range<usize>>,
}

impl Prepared {
    /// What the bytes `range` were written for.
    pub fn from(&self, range: Range<usize>) -> Range<usize> {
        let start = self.from.get(range.start).map_or(0, |from| from.start);
        let end =
            range.end.checked_sub(1).and_then(|last| self.from.get(last)).map_or(start, |from| from.end);
        start..end.max(start)
    }
}

/// How text is prepared.
#[derive(Debug)]
pub(super) struct Preparation {
    charsmap: Option<Charsmap>,
    /// Pieces that stay as they are.
    kept: Option<Pieces>,
    trims: bool,
    prefix: bool,
    /// Whether the space is put after the text.
    suffix: bool,
}

impl Preparation {
    /// That of a vocabulary.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, String> {
        Ok(Preparation {
            charsmap: Charsmap::new(&vocabulary.charsmap)?,
            kept: Pieces::within(vocabulary),
            trims: vocabulary.trims,
            prefix: vocabulary.prefixes_space(),
            suffix: vocabulary.suffix,
        })
    }

    /// Whether a space is put before text.
    pub fn prefix(&self) -> bool {
        self.prefix && !self.suffix
    }

    /// `text` with ▁ for spaces.
    pub fn of(&self, text: &str) -> Result<Prepared, String> {
        const SPACE: &[u8] = "▁".as_bytes();
        let mut out = Vec::with_capacity(text.len() + SPACE.len());
        let mut from = Vec::with_capacity(text.len() + SPACE.len());
        let mut at = 0;
        while self.trims && at < text.len() {
            match self.step(text, at)? {
                (b" ", length) => at += length,
                _ => break,
            }
        }
        if at == text.len() {
            return Ok(Prepared::default());
        }
        if self.prefix && !self.suffix {
            out.extend_from_slice(SPACE);
            from.resize(out.len(), at..at);
        }
        let mut after_space = self.trims;
        while at < text.len() {
            let (mut written, length) = self.step(text, at)?;
            while after_space && let Some(rest) = written.strip_prefix(b" ") {
                written = rest;
            }
            for &byte in written {
                match byte {
                    b' ' => out.extend_from_slice(SPACE),
                    byte => out.push(byte),
                }
            }
            if let Some(last) = written.last() {
                after_space = self.trims && *last == b' ';
            }
            from.resize(out.len(), at..at + length);
            at += length;
        }
        while self.trims && out.ends_with(SPACE) {
            out.truncate(out.len() - SPACE.len());
        }
        from.truncate(out.len());
        if self.prefix && self.suffix {
            out.extend_from_slice(SPACE);
            from.resize(out.len(), at..at);
        }
        let text =
            String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        Ok(Prepared { text, from })
    }

    /// What is written for the text from `at` on, and how many bytes of it that is for.
    fn step<'s>(&'s self, text: &'s str, at: usize) -> Result<(&'s [u8], usize), String> {
        if let Some(length) = self.kept.as_ref().and_then(|kept| kept.at(text, at)) {
            return Ok((&text.as_bytes()[at..at + length], length));
        }
        if let Some(charsmap) = &self.charsmap
            && let Some((written, length)) = charsmap.longest(&text.as_bytes()[at..])?
        {
            return Ok((written, length));
        }
        // A rule may end within a character.
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else {
            return Ok(("\u{fffd}".as_bytes(), 1));
        };
        Ok((&text.as_bytes()[at..at + c.len_utf8()], c.len_utf8()))
    }
}

/// Pieces that are found in text before anything else is.
#[derive(Debug)]
pub(super) struct Pieces(AhoCorasick);

impl Pieces {
    /// Those that SentencePiece finds itself; `None` without any.
    pub fn within(vocabulary: &Vocabulary) -> Option<Self> {
        let texts = vocabulary.within.iter().filter_map(|&id| vocabulary.tokens.get(id as usize));
        let texts: Vec<&[u8]> = texts.map(|token| &token.text[..]).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            return None;
        }
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest).start_kind(StartKind::Anchored);
        builder.build(texts).ok().map(Pieces)
    }

    /// The length of the longest that stands at `at` in `text`.
    pub fn at(&self, text: &str, at: usize) -> Option<usize> {
        let input = Input::new(text.as_bytes()).range(at..).anchored(Anchored::Yes);
        self.0.try_find(input).ok().flatten().map(|found| found.len())
    }
}

/// A precompiled map of characters: the length of a trie, the trie (a double array of darts-clone), and what its rules write, each
/// ended by a zero byte.
#[derive(Debug)]
struct Charsmap {
    units: Vec<u32>,
    written: Vec<u8>,
}

impl Charsmap {
    fn new(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let damaged = || "has a damaged map of characters".to_string();
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, written) = rest.split_at_checked(size).ok_or_else(damaged)?;
        let (units, odd) = trie.as_chunks::<4>();
        if units.is_empty() || !odd.is_empty() {
            return Err(damaged());
        }
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Some(Charsmap { units, written: written.to_vec() }))
    }

    /// What the longest rule writes that matches the beginning of `text`, and the length that it matches.
    fn longest(&self, text: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut at = offset(self.units[0]);
        let (mut longest, mut rules) = (None, 0);
        for (i, &byte) in text.iter().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(at).map(|value| value & (u32::MAX >> 1));
                longest = value.map(|value| (value as usize, i + 1));
                rules += 1;
                if rules == MOST_RULES {
                    break;
                }
            }
        }
        let Some((start, length)) = longest else { return Ok(None) };
        let rest = self.written.get(start..).unwrap_or_default();
        let rest = &rest[..rest.len().min(LONGEST_RULE)];
        match rest.iter().position(|&byte| byte == 0) {
            Some(end) => Ok(Some((&rest[..end], length))),
            None => Err("has a damaged map of characters".into()),
        }
    }
}
