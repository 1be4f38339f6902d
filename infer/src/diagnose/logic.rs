//! Whether a function reverses a list in a way that works in Python.

use std::collections::HashSet;

use tree_sitter::Node;

use super::syntax::{Whole, nodes};

const LIST_METHODS: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];

/// How the first function of `whole` does it: by a loop, by slicing or by `reversed()`. An error if it does none
/// of these, calls `.reverse()`, or a method that lists do not have.
pub(super) fn reverses(whole: &Whole) -> Result<String, String> {
    let code = whole.code.as_bytes();
    let text = |node: Node<'_>| node.utf8_text(code).unwrap_or_default().to_string();
    let function = nodes(whole.tree.root_node()).find(|node| node.kind() == "function_definition");
    let function = function.ok_or("there is no function")?;
    let parameters = function.child_by_field_name("parameters");
    let mut lists: HashSet<String> =
        parameters.into_iter().flat_map(nodes).filter(|n| n.kind() == "identifier").map(text).collect();
    let body = function.child_by_field_name("body").ok_or("the function has no body")?;
    for node in nodes(body).filter(|node| node.kind() == "assignment") {
        let (left, right) = (node.child_by_field_name("left"), node.child_by_field_name("right"));
        let (Some(left), Some(right)) = (left, right) else { continue };
        let is_list =
            matches!(right.kind(), "list" | "list_comprehension") || text(right).starts_with("list(");
        if left.kind() == "identifier" && is_list {
            lists.insert(text(left));
        }
    }
    let mut ways: Vec<String> = Vec::new();
    for node in nodes(body) {
        match node.kind() {
            "for_statement" | "while_statement" | "for_in_clause" => ways.push("a loop".into()),
            "slice" => ways.push("slicing".into()),
            "call" => {
                let Some(called) = node.child_by_field_name("function") else { continue };
                if called.kind() == "identifier" && text(called) == "reversed" {
                    ways.push("reversed()".into());
                }
                let attribute = called.child_by_field_name("attribute").map(text);
                let object = called.child_by_field_name("object").map(text);
                let (Some(attribute), Some(object)) = (attribute, object) else { continue };
                if attribute == "reverse" {
                    return Err(format!("it calls {object}.reverse()"));
                }
                if lists.contains(&object) && !LIST_METHODS.contains(&attribute.as_str()) {
                    return Err(format!("it calls {object}.{attribute}(), which lists do not have"));
                }
            }
            _ => {}
        }
    }
    ways.dedup();
    if ways.is_empty() {
        return Err("there is no loop, no slicing and no reversed()".into());
    }
    Ok(format!("by {}", ways.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::super::{LOGIC_PROMPT, syntax};
    use super::*;

    fn judged(body: &str) -> Result<String, String> {
        syntax::parse(LOGIC_PROMPT, body).and_then(|whole| reverses(&whole))
    }

    #[test]
    fn the_ways_to_reverse_a_list() {
        for (body, way) in [
            ("    return items[::-1]\n", "by slicing"),
            ("    return list(reversed(items))\n", "by reversed()"),
            (
                "    out = []\n    for item in items:\n        out.insert(0, item)\n    return out\n",
                "by a loop",
            ),
            ("    return [items[i] for i in range(len(items) - 1, -1, -1)]\n", "by a loop"),
            ("    while items:\n        yield items.pop()\n", "by a loop"),
        ] {
            assert_eq!(judged(body).as_deref(), Ok(way), "{body}");
        }
    }

    #[test]
    fn what_does_not_reverse_a_list() {
        for (body, why) in [
            ("    items.reverse()\n    return items\n", "items.reverse()"),
            ("    return items\n", "no loop"),
            ("    for item in items:\n        items.push(item)\n", "items.push(), which lists do not have"),
            ("    out = []\n    while items:\n        out.add(items.pop())\n", "out.add()"),
            ("    return items\n\ndef other(x):\n    return x[::-1]\n", "no loop"),
        ] {
            let error = judged(body).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
    }
}
