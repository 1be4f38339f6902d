//! Fill-in-the-middle (Bavarian et al. 2022, <https://arxiv.org/abs/2207.14255>), within one training sequence: a
//! document's part of it becomes prefix, suffix, middle, each after its token, so that the model learns to write the
//! middle.

use super::Token;
use crate::Random;

/// Shorter parts are unchanged: there is no middle to fill in.
const SHORTEST: usize = 8;

/// Which documents are rearranged, and with which tokens.
#[derive(Clone, Debug)]
pub(super) struct FillIn {
    /// Share of documents.
    pub rate: f64,
    /// Tokens before prefix, middle and suffix.
    pub marks: [u32; 3],
    /// The token that ends a document.
    pub end: Option<u32>,
    /// The tokens that a document begins with; they stay there.
    pub begin: Vec<u32>,
}

impl FillIn {
    /// `tokens` with a share of the documents in them rearranged: half of these suffix first. The length stays, so a
    /// rearranged sequence loses three tokens of its end for each document. Sequences with prompts stay as they are.
    pub fn apply(&self, tokens: &mut Vec<Token>, random: &mut Random) {
        if tokens.iter().any(|t| !t.learn && !self.begin.contains(&t.id)) {
            return;
        }
        let length = tokens.len();
        let mut out = Vec::with_capacity(length + 3);
        for part in tokens.split_inclusive(|t| Some(t.id) == self.end) {
            let (text, end) = match part.last() {
                Some(last) if Some(last.id) == self.end => part.split_at(part.len() - 1),
                _ => (part, &[][..]),
            };
            let begins =
                text.len() >= self.begin.len() && text.iter().zip(&self.begin).all(|(t, id)| t.id == *id);
            let (begin, text) = text.split_at(if begins { self.begin.len() } else { 0 });
            out.extend_from_slice(begin);
            match random.uniform() < self.rate && text.len() >= SHORTEST {
                true => self.rearrange(text, random, &mut out),
                false => out.extend_from_slice(text),
            }
            out.extend_from_slice(end);
        }
        out.truncate(length);
        *tokens = out;
    }

    fn rearrange(&self, text: &[Token], random: &mut Random, out: &mut Vec<Token>) {
        let (a, b) = (random.below(text.len() + 1), random.below(text.len() + 1));
        let (a, b) = (a.min(b), a.max(b));
        let (prefix, middle, suffix) = (&text[..a], &text[a..b], &text[b..]);
        let [pre, mid, suf] = self.marks.map(|id| Token { id, learn: true });
        if random.uniform() < 0.5 {
            out.push(pre);
            out.extend_from_slice(prefix);
            out.push(suf);
            out.extend_from_slice(suffix);
            out.push(mid);
        } else {
            // Suffix first, the paper's second variant: prefix and middle follow each other.
            out.extend([pre, suf]);
            out.extend_from_slice(suffix);
            out.push(mid);
            out.extend_from_slice(prefix);
        }
        out.extend_from_slice(middle);
    }
}
