//! SentencePiece's BPE: of all neighbours that form a token together, those with the highest score are joined first,
//! the leftmost of equals (Kudo and Richardson 2018, <https://arxiv.org/abs/1808.06226>). Characters that no token has
//! become tokens of their bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use ckpt_inspect::vocabulary::{Role, TokenType, Vocabulary, byte};

use super::Placed;
use super::prepare::{Pieces, Preparation};

#[derive(Debug)]
pub(super) struct Scores {
    /// Tokens that text can become, with their scores.
    ids: HashMap<Box<[u8]>, (u32, f32)>,
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    preparation: Preparation,
    /// Pieces that are not joined with others.
    frozen: Option<Pieces>,
}

/// A run of characters, a link of the chain that is the text.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

/// Two neighbours that form a token together.
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Merge {}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl Scores {
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, String> {
        let mut ids = HashMap::new();
        let mut bytes = vec![None; 256];
        for (id, token) in (0..).zip(&vocabulary.tokens) {
            match (token.kind, byte(&token.text)) {
                (TokenType::Byte, Some(byte)) => bytes[usize::from(byte)] = Some(id),
                (TokenType::Normal | TokenType::UserDefined, _) => {
                    ids.entry(token.text.clone().into()).or_insert((id, token.score));
                }
                _ => {}
            }
        }
        Ok(Scores {
            ids,
            bytes,
            unknown: vocabulary.role(Role::Unk),
            preparation: Preparation::new(vocabulary)?,
            frozen: Pieces::within(vocabulary),
        })
    }

    pub fn prefix(&self) -> bool {
        self.preparation.prefix()
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), String> {
        let mut tokens = Vec::new();
        self.place(text, &mut tokens)?;
        out.extend(tokens.into_iter().map(|(id, _)| id));
        Ok(())
    }

    /// Appends the tokens of `text`, each with the bytes that it is of.
    pub fn place(&self, text: &str, out: &mut Vec<Placed>) -> Result<(), String> {
        let prepared = self.preparation.of(text)?;
        let text = prepared.text.as_str();
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut start = 0;
        while let Some(c) = text.get(start..).and_then(|rest| rest.chars().next()) {
            let piece = self.frozen.as_ref().and_then(|pieces| pieces.at(text, start));
            let piece = piece.filter(|len| text.is_char_boundary(start + len));
            let (len, number) = (piece.unwrap_or(c.len_utf8()), symbols.len());
            let (prev, next) = (number.checked_sub(1), Some(number + 1));
            symbols.push(Symbol { start, len, prev, next, frozen: piece.is_some() });
            start += len;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut heap = BinaryHeap::new();
        for right in 1..symbols.len() {
            heap.extend(self.merge(text, &symbols, right - 1, right));
        }
        while let Some(Merge { left, right, len, .. }) = heap.pop() {
            let (l, r) = (symbols[left], symbols[right]);
            // One of them was joined with another neighbour meanwhile.
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            symbols[left] = Symbol { len, next: r.next, ..l };
            symbols[right].len = 0;
            if let Some(next) = r.next {
                symbols[next].prev = Some(left);
                heap.extend(self.merge(text, &symbols, left, next));
            }
            if let Some(prev) = l.prev {
                heap.extend(self.merge(text, &symbols, prev, left));
            }
        }
        let mut at = if symbols.is_empty() { None } else { Some(0) };
        let mut in_unknown = false;
        while let Some(number) = at {
            let symbol = symbols[number];
            let tokens = self.tokens(&text[symbol.start..][..symbol.len])?;
            // Consecutive characters without a token become one unknown token.
            let from = prepared.from(symbol.start..symbol.start + symbol.len);
            match out.last_mut().filter(|_| in_unknown && tokens.is_none()) {
                Some((_, unknown)) => unknown.end = from.end,
                None => {
                    let ids = tokens.as_deref().unwrap_or(self.unknown.as_slice());
                    out.extend(ids.iter().map(|&id| (id, from.clone())));
                }
            }
            in_unknown = tokens.is_none();
            at = symbol.next;
        }
        Ok(())
    }

    fn merge(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Merge> {
        if symbols[left].frozen || symbols[right].frozen {
            return None;
        }
        let len = symbols[left].len + symbols[right].len;
        let joined = &text.as_bytes()[symbols[left].start..][..len];
        let (_, score) = self.ids.get(joined)?;
        Some(Merge { score: *score, left, right, len })
    }

    /// The token of `text`, else those of its bytes; `None` where it becomes the unknown token.
    fn tokens(&self, text: &str) -> Result<Option<Vec<u32>>, String> {
        if let Some((id, _)) = self.ids.get(text.as_bytes()) {
            return Ok(Some(vec![*id]));
        }
        let bytes: Option<Vec<u32>> = text.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        if bytes.is_none() && self.unknown.is_none() {
            return Err(format!("has no token for `{}`", text.escape_debug()));
        }
        Ok(bytes)
    }
}
