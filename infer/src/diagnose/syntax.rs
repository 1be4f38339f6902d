//! Whether a completion continues a prompt as valid Python, up to its last whole statement.

use tree_sitter::{Node, Parser, Tree};

/// Code that parses.
pub(super) struct Whole {
    /// Prompt and completion up to the last whole statement.
    pub code: String,
    pub tree: Tree,
    /// Statements that the completion begins, or ends.
    pub statements: usize,
}

impl Whole {
    pub fn counted(&self) -> String {
        format!("{} statement{}", self.statements, if self.statements == 1 { "" } else { "s" })
    }
}

/// Parses `prompt` followed by `completion`, cut at the last whole statement: what is dropped must be the beginning of
/// one, not a mistake.
pub(super) fn parse(prompt: &str, completion: &str) -> Result<Whole, String> {
    let code = format!("{prompt}{completion}");
    let mut parser = parser()?;
    let mut ends: Vec<usize> = code.match_indices('\n').map(|(at, _)| at + 1).collect();
    ends.retain(|end| *end > prompt.len() && *end < code.len());
    ends.push(code.len());
    let mut mistake = None;
    for end in ends.into_iter().rev() {
        let (kept, dropped) = code.split_at(end);
        let tree = parser.parse(kept, None).ok_or("the parser gave up")?;
        match first_error(&tree) {
            None if is_unfinished(dropped) => {
                let given = prompt.trim_end().len();
                let statements = nodes(tree.root_node()).filter(|node| is_written(*node, given)).count();
                if statements > 0 {
                    return Ok(Whole { code: kept.to_string(), tree, statements });
                }
                return Err(mistake.unwrap_or_else(|| "no complete statement was written".to_string()));
            }
            None => break,
            Some(node) => {
                let line = node.start_position().row + 1;
                let text = kept[node.start_byte()..].lines().next().unwrap_or("").trim();
                let text: String = text.chars().take(40).collect();
                // The error in an empty text is that it ends.
                mistake = (!text.is_empty())
                    .then(|| format!("a syntax error in line {line}, at `{text}`"))
                    .or(mistake);
            }
        }
    }
    Err(mistake.unwrap_or_else(|| "no complete statement was written".to_string()))
}

fn parser() -> Result<Parser, String> {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_python::LANGUAGE.into()).map_err(|e| e.to_string())?;
    Ok(parser)
}

/// All nodes below and including `root`, in order.
pub(super) fn nodes(root: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    let mut cursor = root.walk();
    let mut at_end = false;
    std::iter::from_fn(move || {
        if at_end {
            return None;
        }
        let node = cursor.node();
        if !cursor.goto_first_child() {
            while !cursor.goto_next_sibling() {
                if !cursor.goto_parent() {
                    at_end = true;
                    break;
                }
            }
        }
        Some(node)
    })
}

/// The grammar takes a header at the end of the text for a statement with an empty block; Python does not.
fn first_error(tree: &Tree) -> Option<Node<'_>> {
    let root = tree.root_node();
    let lacks_block = |node: Node<'_>| {
        let last = node.child(node.child_count().saturating_sub(1));
        node.kind() == "block" && node.child_count() == 0
            || last.is_some_and(|last| last.kind() == ":" && node.kind() != "slice")
    };
    let wrong = |node: &Node<'_>| node.is_error() || node.is_missing() || lacks_block(*node);
    nodes(root).find(wrong).or(root.has_error().then_some(root))
}

/// Whether `node` is a statement of the completion, which begins at byte `given`: begun there, or ended there without
/// being the head of a block.
fn is_written(node: Node<'_>, given: usize) -> bool {
    let is_statement = node.kind().ends_with("_statement") || node.kind().ends_with("_definition");
    let has_block = || node.children(&mut node.walk()).any(|child| child.kind() == "block");
    is_statement && (node.start_byte() >= given || node.end_byte() > given && !has_block())
}

/// Whether `text`, lines at the end of generated code, may be the beginning of a statement that was cut off: nothing,
/// one line, an open bracket or string, or headers whose block is missing.
fn is_unfinished(text: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let Some((_, headers)) = lines.split_last() else { return true };
    let is_header = |line: &&str| line.ends_with(':') || line.starts_with('@') || line.starts_with('#');
    headers.iter().all(is_header) || is_open(text)
}

/// Whether a bracket or a triple-quoted string that begins in the first line is still open at the end.
fn is_open(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    let mut quote: Option<(&[u8], bool)> = None;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if let Some((end, long)) = quote {
            if rest[0] == b'\\' {
                at += 2;
            } else if rest.starts_with(end) {
                at += end.len();
                quote = None;
            } else {
                if rest[0] == b'\n' && !long {
                    quote = None;
                }
                at += 1;
            }
        } else {
            let long = [&b"\"\"\""[..], b"'''"].into_iter().find(|end| rest.starts_with(end));
            match rest[0] {
                _ if long.is_some() => quote = long.map(|end| (end, true)),
                b'"' => quote = Some((b"\"", false)),
                b'\'' => quote = Some((b"'", false)),
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b'#' => at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()) - 1,
                // A line that is whole: what follows it is another statement.
                b'\n' if depth == 0 => return false,
                _ => {}
            }
            at += quote.map_or(1, |(end, _)| end.len());
        }
    }
    depth > 0 || quote.is_some_and(|(_, long)| long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_cut_at_its_last_whole_statement() {
        for (completion, statements, kept) in [
            ("\n    return n\n", 1, "\n    return n\n"),
            (
                "\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n -",
                2,
                "\n    if n < 2:\n        return n\n",
            ),
            ("\n    a = 1\n    for i in range(n):", 1, "\n    a = 1\n"),
            ("\n    a = 1\n    x = [\n        1,\n        2,", 1, "\n    a = 1\n"),
            ("\n    a = 1\n    \"\"\"Say\n    much", 1, "\n    a = 1\n"),
            ("\n    return 1\n\n@property\ndef f(", 1, "\n    return 1\n\n"),
            (" return n", 1, " return n"),
        ] {
            let whole = parse("def f(n):", completion).unwrap_or_else(|e| panic!("{completion:?}: {e}"));
            assert_eq!(whole.code, format!("def f(n):{kept}"), "{completion:?}");
            assert_eq!(whole.statements, statements, "{completion:?}");
        }
        assert_eq!(parse("def f(a):\n    return", " a + 1\n").unwrap().statements, 1);
        assert!(parse("def f(a):\n    return", "\n").is_err());
    }

    #[test]
    fn mistakes_are_no_cuts() {
        for completion in [
            "\n    return return return\n    a = 1\n    b = 2\n",
            "\n    x = = 1\n    y = 2\n    z = 3\n",
            "\n    if:\n        return 1\n    return 2\n    return 3\n",
            ")) )\n)\n",
        ] {
            let error = parse("def f(n):", completion).err();
            assert!(error.as_ref().is_some_and(|e| e.contains("line")), "{completion:?}: {error:?}");
        }
        for completion in ["", "\n\n", "\n    # nothing but words\n", "\n    x ="] {
            assert!(parse("def f(n):", completion).is_err(), "{completion:?}");
        }
    }
}
