//! JSON as Python's `json` reads it, which takes numbers that are none, numbers of any size and halves of surrogate pairs.

use serde_json::Value;

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
