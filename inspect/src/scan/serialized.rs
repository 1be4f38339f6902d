//! Pickles in JSON, as stable-baselines3 saves what JSON has no form for: base64 under the key `:serialized:`
//! (`stable_baselines3/common/save_util.py`).

use serde_json::Value;

use super::Rule;
use super::content::{Place, Scanner};
use super::json::{self, Keep};
use super::pickles::Stream;
use crate::Result;
use crate::bytes::ByteSource;
use crate::format::HEAD;

/// Bytes that are looked at together.
const WINDOW: u64 = 1 << 16;
const KEY: &str = ":serialized:";

/// Larger files are lists of samples.
const MOST_PARSED: u64 = 256 << 20;

/// The pickles, and nothing else.
struct Pickles;

impl Keep for Pickles {
    fn whole(&self, _: &str) -> bool {
        false
    }

    fn text(&self, key: &str) -> bool {
        key == KEY
    }

    fn path(&self, _: &str) -> bool {
        false
    }

    fn anywhere(&self, _: &str) -> bool {
        false
    }
}

impl Scanner<'_> {
    /// Whether `data` are such JSON; then its pickles are scanned.
    pub(super) fn serialized(&mut self, data: &dyn ByteSource, place: &Place) -> Result<bool> {
        let begins = begins(data)?;
        let text = &*data.window(begins, HEAD)?;
        let all = || 0..data.len();
        if may_be(text) && data.len() > MOST_PARSED {
            if data.contains(KEY.as_bytes(), all())? {
                let message = "the pickles in it were not scanned: it is too large".to_string();
                self.find(Rule::OpaqueContent, place, None, message);
            }
            return Ok(false);
        }
        // The key may be spelt with escapes.
        let may_be =
            may_be(text) && (data.contains(b":serialized", all())? || data.contains(b"\\u00", all())?);
        if !may_be {
            return Ok(false);
        }
        let value = match json::parts(&data.bytes(all())?, &Pickles) {
            Ok(value) => value,
            Err(why) if data.contains(KEY.as_bytes(), all())? => {
                let message = format!("the pickles in it cannot be located: {why}");
                self.find(Rule::OpaqueContent, place, None, message);
                return Ok(false);
            }
            Err(_) => return Ok(false),
        };
        let mut found = Vec::new();
        collect(&value, "", &mut found);
        for (key, text) in &found {
            let pickle = decoded(text);
            self.spend(pickle.len() as u64);
            if let Some(inner) = self.inside(place, &format!("{KEY} of {key}"), None) {
                self.pickles(&pickle.as_slice(), &inner, Stream::Pickles)?;
            }
        }
        Ok(!found.is_empty())
    }
}

/// Where the first byte of `data` is that is no space.
fn begins(data: &dyn ByteSource) -> Result<u64> {
    let mut at = if data.window(0, 3)?.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    loop {
        let window = data.window(at, WINDOW)?;
        match window.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(first) => return Ok(at + first as u64),
            None if window.is_empty() => return Ok(at),
            None => at += window.len() as u64,
        }
    }
}

/// Whether JSON of more than a value begins with `head`.
fn may_be(head: &[u8]) -> bool {
    matches!(head.first(), Some(b'{' | b'['))
        && head.iter().all(|byte| *byte >= b' ' || byte.is_ascii_whitespace())
}

/// Every text under the key, with the key of what holds it.
fn collect<'v>(value: &'v Value, holder: &'v str, found: &mut Vec<(&'v str, &'v str)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, holder, found)),
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::String(text) if key == KEY => found.push((holder, text)),
                    _ => collect(value, key, found),
                }
            }
        }
        _ => {}
    }
}

/// What Python's `base64.b64decode` makes of `text`: it passes over what is no digit, and ends where a group is filled up.
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut pads) = (0u32, 0, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if count >= 2 => {
                pads += 1;
                if count + pads >= 4 {
                    break;
                }
                continue;
            }
            _ => continue,
        };
        pads = 0;
        bits = bits << 6 | u32::from(digit);
        count = (count + 1) % 4;
        if count != 1 {
            out.push((bits >> [0, 0, 4, 2][count]) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn base64_is_read_as_python_reads_it() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("YQ==", b"a"),
            ("YWI=", b"ab"),
            ("YWJj", b"abc"),
            ("Y W\nJ-jZA==YWJj", b"abcd"),
            ("YWJjZGVm", b"abcdef"),
            ("=YWI=", b"ab"),
        ] {
            assert_eq!(decoded(text), bytes, "{text}");
        }
    }
}
