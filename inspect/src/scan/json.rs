//! JSON as Python's `json` reads it, which takes numbers that are none, numbers of any size and halves of surrogate pairs.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The most values of a large text that are kept.
const MOST_KEPT: usize = 200_000;

/// Which parts of a large text are kept.
pub(super) trait Keep {
    /// Everything below this key.
    fn whole(&self, key: &str) -> bool;
    /// A text of this key.
    fn text(&self, key: &str) -> bool;
    /// Whether only paths and templates are kept of this key's texts.
    fn path(&self, key: &str) -> bool;
    /// A text wherever it is.
    fn anywhere(&self, text: &str) -> bool;
}

/// What `keep` keeps of the value that `bytes` are, and of what it is in. Whatever the size, no more memory is taken than by that.
///
/// # Errors
/// Those of [`read`], and that too much would be kept.
pub(super) fn parts(bytes: &[u8], keep: &dyn Keep) -> Result<Value, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let parse = |bytes: &[u8]| {
        let mut left = MOST_KEPT;
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = Part { keep, left: &mut left, place: Place::Item }.deserialize(&mut reader)?;
        reader.end()?;
        Ok::<_, serde_json::Error>(value.unwrap_or_default())
    };
    parse(bytes)
        .or_else(|error| if error.is_data() { Err(error) } else { parse(&plain(bytes)) })
        .map_err(|error| error.to_string())
}

/// Where a value is.
#[derive(Clone, Copy)]
enum Place {
    /// Below a key of which everything is kept.
    Whole,
    /// That of a key whose texts are kept.
    Text,
    /// That of a key whose texts are kept if they are paths or templates.
    Path,
    /// That of another key.
    Entry,
    /// In a list of a key, which may be a library and a class.
    Pair,
    /// In another list.
    Item,
}

/// A value of which parts are kept: `None` if nothing is.
struct Part<'k> {
    keep: &'k dyn Keep,
    left: &'k mut usize,
    place: Place,
}

impl Part<'_> {
    fn kept<E: serde::de::Error>(self, value: Value) -> Result<Option<Value>, E> {
        *self.left = self.left.checked_sub(1).ok_or_else(|| E::custom("it names too much to be followed"))?;
        Ok(Some(value))
    }

    fn scalar<E: serde::de::Error>(self, value: Value) -> Result<Option<Value>, E> {
        match self.place {
            Place::Whole => self.kept(value),
            _ => Ok(None),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.scalar(value.into())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let by_place = match self.place {
            Place::Whole | Place::Text | Place::Pair => true,
            Place::Path => text.contains(['.', ':', '{']),
            Place::Entry | Place::Item => false,
        };
        match by_place || self.keep.anywhere(text) {
            true => self.kept(text.into()),
            false => Ok(None),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let place = match self.place {
            Place::Whole => Place::Whole,
            Place::Text => Place::Text,
            Place::Path | Place::Entry => Place::Pair,
            Place::Pair | Place::Item => Place::Item,
        };
        let (mut kept, mut count) = (Vec::new(), 0usize);
        loop {
            let place = match self.place {
                Place::Path | Place::Entry if count >= 2 => Place::Item,
                _ => place,
            };
            let Some(item) = items.next_element_seed(Part { keep: self.keep, left: self.left, place })?
            else {
                break;
            };
            count += 1;
            kept.extend(item);
        }
        let is_pair =
            matches!(count, 2 | 3) && kept.iter().take(2).filter(|value| value.is_string()).count() == 2;
        if matches!(self.place, Place::Path | Place::Entry) && !is_pair {
            let before = kept.len();
            kept.retain(|value| value.as_str().is_none_or(|text| self.keep.anywhere(text)));
            *self.left += before - kept.len();
        }
        match kept.is_empty() && !matches!(self.place, Place::Whole) {
            true => Ok(None),
            false => self.kept(Value::Array(kept)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = match self.place {
                Place::Whole => Place::Whole,
                _ if self.keep.whole(&key) => Place::Whole,
                _ if self.keep.path(&key) => Place::Path,
                _ if self.keep.text(&key) => Place::Text,
                _ => Place::Entry,
            };
            let value = Part { keep: self.keep, left: self.left, place };
            if let Some(value) = entries.next_value_seed(value)? {
                kept.insert(key, value);
            }
        }
        match kept.is_empty() && !matches!(self.place, Place::Whole) {
            true => Ok(None),
            false => self.kept(Value::Object(kept)),
        }
    }
}

/// The value that `bytes` are.
///
/// # Errors
/// The reason, if Python reads none either, or only one that is nested deeper than is followed here.
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    // With a byte order mark, as some editors write it.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes)
        .or_else(|_| serde_json::from_slice(&plain(bytes)))
        .map_err(|error| error.to_string())
}

/// `bytes` with 0 for every number, and another letter for halves of pairs.
fn plain(bytes: &[u8]) -> Vec<u8> {
    const REPLACEMENT: &[u8] = b"fffd";
    let mut out = Vec::with_capacity(bytes.len());
    let (mut rest, mut in_text) = (bytes, false);
    while let [first, more @ ..] = rest {
        let number = |rest: &[u8]| {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit() || b"+-.eE".contains(b)).count();
            let named = [&b"NaN"[..], b"Infinity", b"-Infinity"];
            named.iter().find(|name| rest.starts_with(name)).map_or(digits, |name| name.len())
        };
        let len = match first {
            b'"' => {
                in_text = !in_text;
                out.push(b'"');
                1
            }
            b'\\' if in_text => {
                out.extend(&rest[..rest.len().min(2)]);
                let half =
                    matches!(more, [b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', _, _, ..]);
                if half {
                    out.extend(REPLACEMENT);
                }
                if half { 6 } else { 2 }
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' if !in_text && number(rest) > 0 => {
                out.push(b'0');
                number(rest)
            }
            other => {
                out.push(*other);
                1
            }
        };
        rest = &rest[len.min(rest.len())..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named;

    impl Keep for Named {
        fn whole(&self, key: &str) -> bool {
            key == "whole"
        }

        fn text(&self, key: &str) -> bool {
            key == "type"
        }

        fn path(&self, key: &str) -> bool {
            key == "path"
        }

        fn anywhere(&self, text: &str) -> bool {
            text.starts_with('$')
        }
    }

    #[test]
    fn of_a_large_text_only_what_may_name_code_is_kept() {
        let text = br#"{"vocab": {"type": 3, "a": "b", "x": {"type": "os.system", "n": [1, 2, NaN]}}, "merges": [["a", "b"], ["c", "d"]],
            "whole": {"a": [1, null, {}]}, "names": ["a", "b", "c", "d", "e", "$f"], "pair": ["lib", "Class"], "n": 1e999, "path": "word", "x": {"path": "a.b"}}"#;
        let expected = serde_json::json!({"vocab": {"x": {"type": "os.system"}}, "whole": {"a": [0, null, {}]},
            "names": ["$f"], "pair": ["lib", "Class"], "x": {"path": "a.b"}});
        assert_eq!(parts(text, &Named).unwrap(), expected);
        let many = format!("[{}1]", r#"{"type": "a"},"#.repeat(MOST_KEPT));
        assert!(parts(many.as_bytes(), &Named).is_err());
        let numbers = format!("[{}1]", r#"{"type": 1, "x": [2.5, "a"]},"#.repeat(MOST_KEPT));
        assert_eq!(parts(numbers.as_bytes(), &Named).unwrap(), Value::Null);
    }

    #[test]
    fn whatever_python_takes_for_json_is_read() {
        for text in [
            r#"{"a": NaN, "b": [-Infinity, Infinity], "_target_": "os.system"}"#,
            r#"{"a": 1e999, "_target_": "os.system"}"#,
            r#"{"a": -123456789012345678901234567890.5, "b": 1E+400, "_target_": "os.system"}"#,
            r#"{"a": "\ud800 NaN \\", "b": "\"-1\"", "_target_": "os.system"}"#,
        ] {
            assert_eq!(read(text.as_bytes()).unwrap()["_target_"], "os.system", "{text}");
        }
        let value = read(br#"{"a": NaN, "b": "NaN \" -1 \uDfFf"}"#).unwrap();
        assert_eq!(value["b"], "NaN \" -1 \u{fffd}");
        for text in ["{", "[nan]", "[1,]", "\"\\"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
