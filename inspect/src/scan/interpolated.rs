//! Texts of which OmegaConf makes mappings, which may name code: by its resolvers `oc.create` and `oc.decode`, or by one whose
//! name is itself put together (`omegaconf/grammar/OmegaConfGrammarParser.g4`).

const MAKING: [&str; 2] = ["oc.create", "oc.decode"];

/// What an opening bracket began.
enum Open {
    /// An interpolation, up to the colon behind its resolver's name.
    Name { text: String, is_made: bool },
    /// Anything behind that.
    Rest,
}

/// Whether OmegaConf makes a mapping of `text`.
pub(super) fn resolves(text: &str) -> bool {
    if !text.contains("${") {
        return false;
    }
    let longest = MAKING.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut open: Vec<Open> = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '$' if rest.next_if_eq(&'{').is_some() => {
                if let Some(Open::Name { is_made, .. }) = open.last_mut() {
                    *is_made = true;
                }
                open.push(Open::Name { text: String::new(), is_made: false });
            }
            '{' if !open.is_empty() => open.push(Open::Rest),
            '}' => {
                open.pop();
            }
            _ => match open.last_mut() {
                Some(Open::Name { text, is_made }) if c == ':' => {
                    if *is_made || MAKING.contains(&text.as_str()) {
                        return true;
                    }
                    open.pop();
                    open.push(Open::Rest);
                }
                // One letter more than the longest tells it from them.
                Some(Open::Name { text, .. }) if !c.is_whitespace() && text.len() <= longest => text.push(c),
                _ => {}
            },
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_that_make_mappings_are_told_from_others() {
        for text in [
            "${oc.create:{_target_: os.system}}",
            "a ${ oc.decode : ${x}}",
            "${${a}:{_target_: os.system}}",
            "${oc.${b}:{_target_: os.system}}",
            "${oc.${b.${c}}:{}}",
            "${oc.env:A,${oc.create:{}}}",
            "{ ${x:{a: ${oc.decode:y}}}",
            "${a}${oc.create:b}",
            "}${oc.create:b}",
        ] {
            assert!(resolves(text), "{text}");
        }
        for text in [
            "${oc.env:HOME,${b}}",
            "${a.${b}}",
            "${a.${b}}: x",
            "${now:%Y-%m-%d}",
            "oc.create:{}",
            "${{ matrix.os }}",
            "${a}:b",
            "${multiply:${a},${b}}",
            "$",
        ] {
            assert!(!resolves(text), "{text}");
        }
    }
}
