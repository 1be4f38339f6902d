//! The text arguments of protocol 0: integers in decimal, and strings with Python's escapes.

use std::sync::Arc;

use super::machine::lossy;
use crate::{Error, Result};

/// Decimal digits as little-endian two's complement. Like CPython, no more than 4300 of them: the conversion is
/// quadratic.
pub(super) fn big_decimal(digits: &[u8]) -> Result<Vec<u8>> {
    let digits = digits.trim_ascii();
    let (negative, digits) = match digits.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, digits),
    };
    if digits.is_empty() || digits.len() > 4300 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Error::damaged("an integer of the pickle is not a number of at most 4300 digits"));
    }
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits {
        let mut carry = u16::from(digit - b'0');
        for byte in &mut bytes {
            let v = u16::from(*byte) * 10 + carry;
            *byte = v as u8;
            carry = v >> 8;
        }
        if carry > 0 {
            bytes.push(carry as u8);
        }
    }
    bytes.push(0);
    if negative {
        let mut carry = true;
        for byte in &mut bytes {
            let (v, overflow) = (!*byte).overflowing_add(carry.into());
            *byte = v;
            carry = overflow;
        }
    }
    Ok(bytes)
}

/// The argument of STRING: a quoted literal with Python 2's escapes.
pub(super) fn unescape_string(line: &[u8]) -> Result<Arc<str>> {
    let line = line.trim_ascii();
    let quoted = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err(Error::damaged("a STRING of the pickle is not quoted")),
    };
    if !quoted.contains(&b'\\') {
        return Ok(lossy(quoted));
    }
    let mut out = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let Some((&escape, tail)) = rest.split_first() else { break };
        rest = tail;
        match escape {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'v' => out.push(11),
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'x' => match rest.get(..2).and_then(hex) {
                Some(code) => {
                    out.push(code as u8);
                    rest = &rest[2..];
                }
                None => out.extend(b"\\x"),
            },
            b'0'..=b'7' => {
                let mut code = u32::from(escape - b'0');
                for _ in 0..2 {
                    let Some((&d @ b'0'..=b'7', tail)) = rest.split_first() else { break };
                    code = code * 8 + u32::from(d - b'0');
                    rest = tail;
                }
                out.push(code as u8);
            }
            other => out.extend([b'\\', other]),
        }
    }
    Ok(match String::from_utf8(out) {
        Ok(s) => s.into(),
        Err(e) => e.into_bytes().iter().map(|&b| char::from(b)).collect::<String>().into(),
    })
}

/// The argument of UNICODE: Python's raw-unicode-escape, latin-1 with \uXXXX and \UXXXXXXXX.
pub(super) fn unescape_unicode(line: &[u8]) -> Arc<str> {
    if line.is_ascii() && !line.contains(&b'\\') {
        return lossy(line);
    }
    let mut units: Vec<u16> = Vec::with_capacity(line.len());
    let mut rest = line;
    while let [first, tail @ ..] = rest {
        let digits = match tail.first() {
            Some(b'u') if *first == b'\\' => 4,
            Some(b'U') if *first == b'\\' => 8,
            _ => 0,
        };
        let code = tail.get(1..1 + digits).filter(|d| !d.is_empty()).and_then(hex).and_then(|code| {
            // A surrogate has no char and is passed on as a unit, to meet its other half.
            u16::try_from(code).map(Ok).or_else(|_| char::from_u32(code).map(Err).ok_or(())).ok()
        });
        match code {
            Some(Ok(unit)) => units.push(unit),
            Some(Err(wide)) => units.extend_from_slice(wide.encode_utf16(&mut [0; 2])),
            None => {
                units.push(u16::from(*first));
                rest = tail;
                continue;
            }
        }
        rest = &tail[1 + digits..];
    }
    String::from_utf16_lossy(&units).into()
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))
}
