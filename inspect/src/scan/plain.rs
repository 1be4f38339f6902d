//! Whether bytes are text, and whether a pickle of text, which has no first bytes of its own, was cut off.

use crate::Result;
use crate::bytes::ByteSource;

/// A longer text in UTF-16 is read as none.
const MOST_WIDE: u64 = 16 << 20;

/// Whether `data` are text in UTF-8, or in UTF-16 behind its mark, without signs that control anything but lines.
pub(super) fn is_text(data: &dyn ByteSource) -> Result<bool> {
    let wide = match *data.window(0, 2)? {
        [0xff, 0xfe] => Some(u16::from_le_bytes as fn([u8; 2]) -> u16),
        [0xfe, 0xff] => Some(u16::from_be_bytes as fn([u8; 2]) -> u16),
        _ => None,
    };
    if let Some(unit) = wide {
        if data.len() > MOST_WIDE || data.len() % 2 == 1 {
            return Ok(false);
        }
        let bytes = data.bytes(0..data.len())?;
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        return Ok(char::decode_utf16(units).all(|c| c.is_ok_and(is_plain)));
    }
    // The bytes of a letter that a piece ends with.
    let (mut begun, mut all): (Vec<u8>, bool) = (Vec::new(), true);
    data.walk(0, |piece| {
        begun.extend(piece);
        let (text, rest) = match std::str::from_utf8(&begun) {
            Ok(text) => (text, Vec::new()),
            Err(error) => {
                let (text, rest) = begun.split_at(error.valid_up_to());
                all = error.error_len().is_none();
                (std::str::from_utf8(text).unwrap_or_default(), rest.to_vec())
            }
        };
        all &= text.chars().all(is_plain);
        begun = rest;
        all
    })?;
    Ok(all && begun.is_empty())
}

fn is_plain(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\x0c') || !c.is_ascii_control()
}

/// Whether a pickle of protocol 0 or 1 ends within the opcode at `at`, or right before one.
pub(super) fn is_cut(data: &dyn ByteSource, at: u64) -> Result<bool> {
    let head = data.window(at, 6)?;
    let left = data.len().saturating_sub(at);
    let Some((opcode, rest)) = head.split_first() else { return Ok(true) };
    let ends_in_line = |begins: &dyn Fn(u8) -> bool| -> Result<bool> {
        let first = rest.first().is_none_or(|first| begins(*first));
        Ok(first && data.all_from(at, |byte| byte != b'\n')?)
    };
    let length = |width: usize| {
        rest.get(..width).map(|bytes| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)))
    };
    Ok(match opcode {
        b'I' | b'F' | b'L' => ends_in_line(&|first| first.is_ascii_digit() || b"+-".contains(&first))?,
        b'g' | b'p' => ends_in_line(&|first| first.is_ascii_digit())?,
        b'S' => ends_in_line(&|first| b"'\"".contains(&first))?,
        b'V' => ends_in_line(&|_| true)?,
        b'G' => left < 9,
        b'J' | b'j' | b'r' => left < 5,
        b'M' => left < 3,
        b'K' | b'h' | b'q' => left < 2,
        b'U' => length(1).is_none_or(|length| left < 2 + length),
        // Four letters are no length.
        b'T' | b'X' => {
            let letters = !rest.is_empty() && rest.iter().take(4).all(|byte| *byte >= b' ');
            !letters && length(4).is_none_or(|length| left < 5 + length)
        }
        b'c' | b'i' => {
            let mut lines = 0;
            let name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
            data.all_from(at + 1, |byte| byte == b'\n' || name(byte))? && {
                data.walk(at, |piece| {
                    lines += piece.iter().filter(|byte| **byte == b'\n').count();
                    lines < 2
                })?;
                lines < 2
            }
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_bytes() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let long = "é".repeat(3 << 20);
        for text in [&b"a\r\n\tb"[..], "ä€😀".as_bytes(), long.as_bytes(), &wide("\u{feff}abc\n"), b""] {
            assert!(is_text(&text).unwrap());
        }
        let cut = [long.as_bytes(), b"\xc3"].concat();
        for bytes in
            [&b"a\0"[..], b"\xff\xfe\xff", b"\x80abc", b"a\x1b[0m", &cut, &wide("\u{feff}a\0"), b"caf\xe9"]
        {
            assert!(!is_text(&bytes).unwrap(), "{:?}", &bytes[..bytes.len().min(9)]);
        }
    }

    #[test]
    fn pickles_that_end_within_an_opcode_are_told() {
        for cut in [
            "",
            "I1",
            "F1.",
            "L",
            "p",
            "p1",
            "g",
            "S",
            "S'a",
            "V",
            "Vab",
            "J\x01\0\0",
            "K",
            "U\x05abc",
            "X\x04\0\0\0abc",
            "T\0",
            "cposix\nsys",
            "c",
            "ios",
        ] {
            assert!(is_cut(&cut.as_bytes(), 0).unwrap(), "{cut:?}");
        }
        for other in
            ["I am", "See", "Text", "Xxxx y", "copyright (c)\n", "page", "z", "V\n", "cposix\nsystem\n"]
        {
            assert!(!is_cut(&other.as_bytes(), 0).unwrap(), "{other:?}");
        }
    }
}
