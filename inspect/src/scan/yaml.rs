//! YAML, as much of it as a configuration needs: plain values, and the Python objects that its tags name.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Tag};
use serde_json::{Map, Value};

/// Longer texts behind an anchor are not repeated where an alias is; what they name is not known.
const LONGEST_NAME: usize = 200;
const NOT_REPEATED: &str = "(a long text behind an anchor)";
/// Ends of lines in YAML 1.1 and not in 1.2.
const BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];
/// The deepest nesting that is followed, which is that of serde_json.
const DEEPEST: usize = 128;

/// What a tag has a loader do: how it is spelt, and the object, the module as `module.*`, or the file that it names.
#[derive(Debug, PartialEq)]
pub(super) struct Tagged {
    pub by: &'static str,
    pub what: String,
}

/// Documents, and what their tags name.
type Parsed = std::result::Result<(Vec<Value>, Vec<Tagged>), String>;

/// The documents of `text` as every reader would find them, and what its tags name.
pub(super) fn read(text: &str) -> Parsed {
    let (mut documents, mut tags) = yaml(text)?;
    // PyYAML ends lines at these too, as YAML 1.1 does (section 4.2).
    if text.contains(BREAKS) {
        let (more, also) = yaml(&text.replace(BREAKS, "\n"))?;
        documents.extend(more);
        tags.extend(also);
    }
    Ok((documents, tags))
}

/// A collection of YAML that is being read: what it holds so far, the key that waits for its value, and its anchor.
struct Open {
    value: Value,
    key: Option<String>,
    anchor: usize,
}

/// The documents of `text`, and the Python objects that its tags name. What stands behind an anchor is where it was
/// defined; an alias of it is a text or nothing, so that documents do not grow.
fn yaml(text: &str) -> Parsed {
    let (mut documents, mut tags, mut open) = (Vec::new(), Vec::new(), Vec::<Open>::new());
    let mut anchored: HashMap<usize, Value> = HashMap::new();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        let tag = match &event {
            Event::Scalar(.., tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => {
                tag.as_deref()
            }
            _ => None,
        };
        tags.extend(tag.and_then(tagged));
        let done = match event {
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                if open.len() == DEEPEST {
                    return Err(format!("it is nested more than {DEEPEST} deep"));
                }
                let value = match event {
                    Event::SequenceStart(..) => Value::Array(Vec::new()),
                    _ => Value::Object(Map::new()),
                };
                open.push(Open { value, key: None, anchor });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = open.pop() else { continue };
                if closed.anchor > 0 {
                    anchored.insert(closed.anchor, Value::Null);
                }
                closed.value
            }
            Event::Scalar(text, _, anchor, _) => {
                let value = Value::String(text.into_owned());
                if anchor > 0 {
                    let is_short = value.as_str().is_some_and(|text| text.len() <= LONGEST_NAME);
                    let kept = if is_short { value.clone() } else { Value::String(NOT_REPEATED.into()) };
                    anchored.insert(anchor, kept);
                }
                value
            }
            Event::Alias(anchor) => anchored.get(&anchor).cloned().unwrap_or_default(),
            _ => continue,
        };
        match open.last_mut() {
            None => documents.push(done),
            Some(Open { value: Value::Array(items), .. }) => items.push(done),
            Some(Open { value: Value::Object(entries), key, .. }) => match key.take() {
                None => *key = Some(done.as_str().unwrap_or_default().to_string()),
                Some(name) => match entries.get_mut(&name) {
                    // Readers differ in which of equal keys counts.
                    Some(Value::Array(several)) => several.push(done),
                    Some(first) => *first = Value::Array(vec![first.take(), done]),
                    None => {
                        entries.insert(name, done);
                    }
                },
            },
            Some(_) => {}
        }
    }
    Ok((documents, tags))
}

/// Tags of HyperPyYAML, by which SpeechBrain makes its models (`hyperpyyaml/core.py`): the last one is of files.
const HYPER: [&str; 6] = ["!new", "!apply", "!applyref", "!name", "!module", INCLUDE];
pub(super) const INCLUDE: &str = "!include";

/// What a loader imports for a tag: PyYAML's unrestricted ones for `!!python/object/apply:os.system`, HyperPyYAML for
/// `!apply:os.system`.
fn tagged(tag: &Tag) -> Option<Tagged> {
    let whole = unescaped(&format!("{}{}", tag.handle, tag.suffix));
    if let Some((_, python)) = whole.split_once("python/") {
        let (kind, path) = python.split_once(':')?;
        // Plain types have no path: `!!python/tuple`.
        return (kind.starts_with("object") || matches!(kind, "name" | "module"))
            .then(|| Tagged { by: "!!python", what: named(kind, path) });
    }
    let (kind, path) = whole.split_once(':')?;
    let kind = kind.rsplit('!').next().unwrap_or(kind);
    let by = HYPER.into_iter().find(|by| by[1..] == *kind)?;
    Some(Tagged { by, what: named(kind, path) })
}

fn named(kind: &str, path: &str) -> String {
    match kind {
        "module" => format!("{path}.*"),
        _ => path.to_string(),
    }
}

/// `tag` with characters for `%3A` and the like.
fn unescaped(tag: &str) -> String {
    let mut parts = tag.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(code) => {
                out.push(code);
                out.extend(&part.as_bytes()[2..]);
            }
            None => {
                out.push(b'%');
                out.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(tags: &[Tagged]) -> Vec<&str> {
        tags.iter().map(|tag| &*tag.what).collect()
    }

    #[test]
    fn tags_of_speechbrain_are_followed() {
        let text = "a: !new:speechbrain.nnet.CNN.Conv1d\n  x: !apply:os.system [id]\nb: !name:os.getcwd\nc: !module:evil\nd: !applyref:a.b\ne: !include:other.yaml\nf: !ref <a>\ng: !<!apply:os.popen> [id]\nh: !app%6cy:os.kill [1]\n";
        let (_, tags) = read(text).unwrap();
        assert_eq!(
            names(&tags),
            [
                "speechbrain.nnet.CNN.Conv1d",
                "os.system",
                "os.getcwd",
                "evil.*",
                "a.b",
                "other.yaml",
                "os.popen",
                "os.kill"
            ]
        );
        let (_, tags) = read("%TAG !x! !app\n---\na: !x!ly:os.system [id]\n").unwrap();
        assert_eq!(tags, [Tagged { by: "!apply", what: "os.system".into() }]);
    }

    #[test]
    fn anchors_tags_and_repeated_keys_are_followed() {
        let (documents, tags) =
            read("a: &x os.system\nb: {_target_: *x}\nc: !!python/object/apply:os.popen [id]\n_target_: 1\n_target_: sys.exit\n")
                .unwrap();
        assert_eq!(names(&tags), ["os.popen"]);
        assert_eq!(documents[0]["b"], json!({"_target_": "os.system"}));
        assert_eq!(documents[0]["_target_"], json!(["1", "sys.exit"]));
        assert!(read(&"[".repeat(200)).is_err());
        let bomb = (1..40).fold("a0: &a0 [x]\n".to_string(), |text, i| {
            text + &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1)
        });
        assert_eq!(read(&bomb).unwrap().0.len(), 1);
        let long = format!("a: &x {}\n_target_: *x\n", "os.path.".repeat(40));
        assert_eq!(read(&long).unwrap().0[0]["_target_"], NOT_REPEATED);
    }

    #[test]
    fn lines_end_where_they_do_for_any_reader() {
        for end in BREAKS {
            let (documents, tags) =
                read(&format!("a: 1 # x{end}_target_: os.system{end}b: !!python/name:os.popen ''\n"))
                    .unwrap();
            assert!(documents.iter().any(|document| document["_target_"] == "os.system"), "{end:?}");
            assert_eq!(names(&tags), ["os.popen"]);
        }
    }
}
