//! Text from a file made safe to show on one line.

use std::fmt::Write as _;

/// `text` with every control character, line separator and bidirectional override replaced by its `\u{…}` escape,
/// and the two noncharacters that XML forbids as well. What comes out is one line and reads in the order it is
/// written.
pub fn printable(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{fffe}' | '\u{ffff}')
    };
    if !text.contains(hostile) {
        return text.to_string();
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
        if hostile(c) {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn controls_become_visible_and_the_rest_stays() {
        assert_eq!(printable("layers.0.mlp"), "layers.0.mlp");
        assert_eq!(printable("größe 🦀"), "größe 🦀");
        assert_eq!(printable("a\n\u{1b}[31mb\u{202e}c\u{ffff}"), "a\\u{a}\\u{1b}[31mb\\u{202e}c\\u{ffff}");
    }
}
