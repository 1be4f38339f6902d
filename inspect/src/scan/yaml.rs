//! YAML, as much of it as a configuration needs: plain values, and the Python objects that its tags name.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value};

/// What the values that aliases repeat, and what is kept for them, may take of memory: in bytes, about.
const MOST_REPEATED: usize = 16 << 20;
/// What a value takes besides its text.
const VALUE: usize = 64;
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

/// Documents, what their tags name, and whether readers differ in the documents.
type Parsed = Result<(Vec<Value>, Vec<Tagged>, bool), String>;

/// How readers differ in what a mapping has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mappings {
    /// The last of equal keys counts, and what is under `<<` is merged: PyYAML.
    Merged,
    /// The first counts, and `<<` is a key as any other.
    AsWritten,
}

/// Gives the documents of `text` to `take`, once for each way in which readers would find them, and returns what its tags name.
///
/// # Errors
/// The reason why it is not read: it is no YAML, or nested or repeated out of proportion.
pub(super) fn read(text: &str, take: &mut dyn FnMut(&Value)) -> Result<Vec<Tagged>, String> {
    let mut tags = readings(text, take)?;
    // PyYAML ends lines at these too, as YAML 1.1 does (section 4.2).
    if text.contains(BREAKS) {
        tags.extend(readings(&text.replace(BREAKS, "\n"), take)?);
    }
    Ok(tags)
}

fn readings(text: &str, take: &mut dyn FnMut(&Value)) -> Result<Vec<Tagged>, String> {
    let indented: String;
    let (mut text, mut parsed) = (text, yaml(text, Mappings::Merged));
    // PyYAML takes a bracket that closes at the beginning of a line.
    if parsed.is_err() && (text.contains("\n}") || text.contains("\n]")) {
        let inward = " ".repeat(DEEPEST);
        indented = text.replace("\n}", &format!("\n{inward}}}")).replace("\n]", &format!("\n{inward}]"));
        text = &indented;
        parsed = yaml(text, Mappings::Merged);
    }
    let (documents, tags, differ) = parsed?;
    documents.iter().for_each(&mut *take);
    drop(documents);
    if differ {
        yaml(text, Mappings::AsWritten)?.0.iter().for_each(take);
    }
    Ok(tags)
}

/// A collection of YAML that is being read.
struct Open {
    /// What it holds so far,
    value: Value,
    /// what is merged into it,
    merged: Vec<Value>,
    /// and the key that waits for its value.
    key: Option<Key>,
    anchor: usize,
    /// Whether it is tagged as a text, which a mapping may be by its key `=`.
    is_text: bool,
    /// What had been made before it, in bytes.
    before: usize,
    /// How deep it nests others.
    height: usize,
}

struct Key {
    text: String,
    /// Whether what it has is merged.
    merges: bool,
}

/// What an alias repeats.
struct Anchored {
    value: Value,
    bytes: usize,
    height: usize,
}

/// The documents of `text`, as readers find them who treat mappings so, and the Python objects that its tags name.
fn yaml(text: &str, mappings: Mappings) -> Parsed {
    let (mut documents, mut tags, mut open) = (Vec::new(), Vec::new(), Vec::<Open>::new());
    // Without what is too large to be repeated.
    let mut anchored: HashMap<usize, Option<Anchored>> = HashMap::new();
    let (mut made, mut left, mut differ) = (0usize, MOST_REPEATED, false);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        let tag = match &event {
            Event::Scalar(.., tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => {
                tag.as_deref()
            }
            _ => None,
        };
        tags.extend(tag.and_then(tagged));
        let is = |ends: &[&str]| tag.is_some_and(|tag| ends.iter().any(|end| tag.suffix.ends_with(end)));
        let (is_text, mut merges) = (is(&["str", "unicode"]), is(&["merge"]));
        let (done, height) = match event {
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                if open.len() == DEEPEST {
                    return Err(format!("it is nested more than {DEEPEST} deep"));
                }
                let value = match event {
                    Event::SequenceStart(..) => Value::Array(Vec::new()),
                    _ => Value::Object(Map::new()),
                };
                let merged = Vec::new();
                open.push(Open { value, merged, key: None, anchor, is_text, before: made, height: 0 });
                made += VALUE;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = open.pop() else { continue };
                let (anchor, bytes, height) = (closed.anchor, made - closed.before, closed.height + 1);
                let value = closed.finish();
                keep(anchor, &value, bytes, height, &mut anchored, &mut left);
                (value, height)
            }
            Event::Scalar(text, style, anchor, _) => {
                merges |= style == ScalarStyle::Plain && text == "<<";
                let value = Value::String(text.into_owned());
                let bytes = VALUE + value.as_str().map_or(0, str::len);
                made += bytes;
                keep(anchor, &value, bytes, 0, &mut anchored, &mut left);
                (value, 0)
            }
            Event::Alias(anchor) => {
                let Some(kept) = anchored.get(&anchor) else {
                    return Err("a value is a part of itself".into());
                };
                let again = kept.as_ref().filter(|kept| kept.bytes <= left).ok_or("it repeats too much")?;
                if open.len() + again.height > DEEPEST {
                    return Err(format!("it is nested more than {DEEPEST} deep"));
                }
                left -= again.bytes;
                made += again.bytes;
                (again.value.clone(), again.height)
            }
            _ => continue,
        };
        let Some(holder) = open.last_mut() else {
            documents.push(done);
            continue;
        };
        holder.height = holder.height.max(height);
        match (&mut holder.value, holder.key.take()) {
            (Value::Array(items), _) => items.push(done),
            (Value::Object(_), None) => {
                let text = match done {
                    Value::String(text) => text,
                    // No reader has such keys in a mapping that names code, but what they hold.
                    other => {
                        documents.push(other);
                        String::new()
                    }
                };
                holder.key = Some(Key { text, merges });
            }
            (Value::Object(_), Some(key)) if key.merges && mappings == Mappings::Merged => {
                holder.merged.push(done);
                differ = true;
            }
            (Value::Object(entries), Some(key)) => match entries.contains_key(&key.text) {
                true => {
                    differ = true;
                    if mappings == Mappings::Merged {
                        entries.insert(key.text, done);
                    }
                }
                false => {
                    entries.insert(key.text, done);
                }
            },
            _ => {}
        }
    }
    Ok((documents, tags, differ))
}

impl Open {
    /// The collection, with what is merged into it (`flatten_mapping` and `construct_scalar` in PyYAML's `constructor.py`).
    fn finish(self) -> Value {
        let Value::Object(own) = self.value else { return self.value };
        let mut all = Map::new();
        for merged in self.merged {
            match merged {
                Value::Object(entries) => all.extend(entries),
                // The first of several counts.
                Value::Array(several) => {
                    for entries in several.into_iter().rev() {
                        if let Value::Object(entries) = entries {
                            all.extend(entries);
                        }
                    }
                }
                _ => {}
            }
        }
        if all.is_empty() {
            all = own;
        } else {
            all.extend(own);
        }
        match all.remove("=") {
            Some(text) if self.is_text => text,
            Some(other) => {
                all.insert("=".into(), other);
                Value::Object(all)
            }
            None => Value::Object(all),
        }
    }
}

/// Keeps `value` for aliases of the `anchor` that it has, if it has one.
fn keep(
    anchor: usize,
    value: &Value,
    bytes: usize,
    height: usize,
    anchored: &mut HashMap<usize, Option<Anchored>>,
    left: &mut usize,
) {
    if anchor > 0 {
        let fits = bytes <= *left;
        if fits {
            *left -= bytes;
        }
        anchored.insert(anchor, fits.then(|| Anchored { value: value.clone(), bytes, height }));
    }
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

    /// The first reading's documents, what the tags name, and how many documents there are in all.
    fn parsed(text: &str) -> Result<(Vec<Value>, Vec<Tagged>), String> {
        let mut documents = Vec::new();
        let tags = read(text, &mut |document| documents.push(document.clone()))?;
        Ok((documents, tags))
    }

    fn names(tags: &[Tagged]) -> Vec<&str> {
        tags.iter().map(|tag| &*tag.what).collect()
    }

    #[test]
    fn tags_of_speechbrain_are_followed() {
        let text = "a: !new:speechbrain.nnet.CNN.Conv1d\n  x: !apply:os.system [id]\nb: !name:os.getcwd\nc: !module:evil\nd: !applyref:a.b\ne: !include:other.yaml\nf: !ref <a>\ng: !<!apply:os.popen> [id]\nh: !app%6cy:os.kill [1]\n";
        let (_, tags) = parsed(text).unwrap();
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
        let (_, tags) = parsed("%TAG !x! !app\n---\na: !x!ly:os.system [id]\n").unwrap();
        assert_eq!(tags, [Tagged { by: "!apply", what: "os.system".into() }]);
    }

    #[test]
    fn anchors_and_tags_are_followed() {
        let (documents, tags) =
            parsed("a: &x os.system\nb: {_target_: *x}\nc: !!python/object/apply:os.popen [id]\n").unwrap();
        assert_eq!(names(&tags), ["os.popen"]);
        assert_eq!(documents[0]["b"], json!({"_target_": "os.system"}));
        let text = "x: &b [{name: &n os.system}, *n]\ny: *b\n? {k: v}\n: z\n";
        let (documents, _) = parsed(text).unwrap();
        assert!(
            documents.iter().any(|document| document["y"] == json!([{"name": "os.system"}, "os.system"]))
        );
        assert!(documents.contains(&json!({"k": "v"})));
        let long = format!("a: &x {}\n_target_: *x\n", "os.path.".repeat(400));
        assert_eq!(parsed(&long).unwrap().0[0]["_target_"], "os.path.".repeat(400));
        let (documents, _) = parsed("_target_: !!str {a: b, =: os.system}\nx: {=: a}\n").unwrap();
        assert_eq!(documents[0], json!({"_target_": "os.system", "x": {"=": "a"}}));
    }

    #[test]
    fn what_is_repeated_is_bounded() {
        assert!(parsed(&"[".repeat(200)).is_err());
        let doubled = (1..40).fold("a0: &a0 [x]\n".to_string(), |text, i| {
            text + &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1)
        });
        let deeper = (1..300)
            .fold("a0: &a0 [x]\n".to_string(), |text, i| text + &format!("a{i}: &a{i} [*a{}]\n", i - 1));
        let long = format!("a: &x {}\nb: [{}]\n", "x".repeat(1 << 20), "*x, ".repeat(100));
        for bomb in [doubled, deeper, long, "a: &x [*x]\n".into(), "a: &x {b: [{c: *x}]}\n".into()] {
            assert!(parsed(&bomb).is_err());
        }
        let often = format!("a: &x {{b: [c, d]}}\nb: [{}]\n", "*x, ".repeat(5000));
        assert_eq!(parsed(&often).unwrap().0[0]["b"].as_array().unwrap().len(), 5000);
    }

    /// As `yaml.safe_load` of PyYAML has them first, and then as written.
    #[test]
    fn equal_keys_and_merged_ones_are_read_as_every_reader_does() {
        for (text, python, other) in [
            ("a: 1\na: [x]\n", json!({"a": ["x"]}), json!({"a": "1"})),
            ("a: [x]\na: {b: c}\na: z\n", json!({"a": "z"}), json!({"a": ["x"]})),
            (
                "x: {<<: {a: b, c: d}, a: e}\n",
                json!({"x": {"a": "e", "c": "d"}}),
                json!({"x": {"<<": {"a": "b", "c": "d"}, "a": "e"}}),
            ),
            (
                "<<: [{a: 1, b: 1}, {a: 2, c: 2}]\nd: 3\n",
                json!({"a": "1", "b": "1", "c": "2", "d": "3"}),
                json!({"<<": [{"a": "1", "b": "1"}, {"a": "2", "c": "2"}], "d": "3"}),
            ),
            ("<<: {a: 1}\n<<: {a: 2}\n", json!({"a": "2"}), json!({"<<": {"a": "1"}})),
            ("!!merge x: {a: 1}\n", json!({"a": "1"}), json!({"x": {"a": "1"}})),
        ] {
            assert_eq!(parsed(text).unwrap().0, [python, other], "{text}");
        }
        assert_eq!(parsed("'<<': {a: 1}\n").unwrap().0, [json!({"<<": {"a": "1"}})]);
    }

    #[test]
    fn brackets_may_close_at_the_beginning_of_a_line() {
        for text in ["a: {\n  b: c,\n}\nd: [\n  e\n]\n", "x:\n  a: {\n    b: c\n}\n"] {
            assert_eq!(parsed(text).map(|(documents, _)| documents.len()), Ok(1), "{text}");
        }
    }

    #[test]
    fn lines_end_where_they_do_for_any_reader() {
        for end in BREAKS {
            let (documents, tags) =
                parsed(&format!("a: 1 # x{end}_target_: os.system{end}b: !!python/name:os.popen ''\n"))
                    .unwrap();
            assert!(documents.iter().any(|document| document["_target_"] == "os.system"), "{end:?}");
            assert_eq!(names(&tags), ["os.popen"]);
        }
    }
}
