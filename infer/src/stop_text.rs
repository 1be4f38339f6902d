//! Texts that end a generation, found in text that arrives in pieces.

/// Passes text through up to the first stop text, and holds back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
}

impl StopText {
    /// Stops at any of `stops`; empty ones are never found.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        StopText { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// The text that can be shown after `piece`, and whether a stop text was found. It and everything after it are
    /// dropped.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let at = starts.find(|at| self.held.len() - at < longest && begins(at)).unwrap_or(self.held.len());
        let rest = self.held.split_off(at);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back, at the end of the input.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn beginnings_wait_for_their_end() {
        let mut stop = StopText::new(["User:".to_string(), "\n\n".to_string(), String::new()]);
        assert_eq!(stop.push("a U"), ("a ".into(), false));
        assert_eq!(stop.push("se"), ("".into(), false));
        assert_eq!(stop.push("less\n"), ("Useless".into(), false));
        assert_eq!(stop.push("b\nUser: c"), ("\nb\n".into(), true));
        assert_eq!(stop.push("x\n"), ("x".into(), false));
        assert_eq!(stop.finish(), "\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However a text is divided, exactly the text before the first stop text is let through.
        #[test]
        fn cuts_change_nothing(text in "[abé]{0,20}", stops in prop::collection::vec("[abé]{1,4}", 0..3), size in 1usize..4) {
            let expected = stops.iter().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
            let mut stop = StopText::new(stops.clone());
            let mut through = String::new();
            let chars: Vec<char> = text.chars().collect();
            let mut stopped = false;
            for piece in chars.chunks(size) {
                let (more, ended) = stop.push(&piece.iter().collect::<String>());
                through += &more;
                stopped = ended;
                if ended {
                    break;
                }
            }
            if !stopped {
                through += &stop.finish();
            }
            // Of two stop texts in one piece the first counts; across pieces, the one that was complete first.
            let earliest = stops.iter().filter_map(|s| text.find(s.as_str()).map(|at| at + s.len())).min();
            prop_assert_eq!(stopped, earliest.is_some());
            if stops.len() < 2 {
                prop_assert_eq!(through, &text[..expected]);
            } else {
                prop_assert!(text.starts_with(&through));
            }
        }
    }
}
