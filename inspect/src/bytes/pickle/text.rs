//! Texts and numbers of a pickle. The text arguments of protocol 0 are read as CPython reads them: numbers, and strings with
//! Python's escapes.

use std::borrow::Cow;
use std::sync::Arc;

use super::Node;
use super::machine::{FALSE, Machine, TRUE};
use crate::bytes::text as text_of;
use crate::{Error, Result};

impl<'a> Machine<'a> {
    pub(super) fn string(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.push(Node::Str(lossy(bytes)))
    }

    /// A `str` of Python 2: text in most files, raw bytes in some (numpy arrays).
    pub(super) fn old_string(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        // Checked first, so that arrays are not copied only to find that they are not text.
        let copy = std::str::from_utf8(bytes).is_ok().then(|| String::from_utf8(bytes.to_vec()));
        self.push(match copy {
            Some(Ok(s)) => Node::Str(s.into()),
            _ => Node::Bytes(Cow::Borrowed(bytes)),
        })?;
        // Its characters depend on the encoding with which the pickle is loaded.
        if self.is_traced() && !bytes.is_ascii() {
            let id = self.top()?;
            self.lost(id);
        }
        Ok(())
    }

    /// Byte strings are read into place, whatever frame they reach beyond.
    pub(super) fn bytes(&mut self, n: u64) -> Result<()> {
        self.leave_frame(n, false);
        let bytes = self.taken(n)?;
        self.push(Node::Bytes(Cow::Borrowed(bytes)))
    }

    pub(super) fn long(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.push(long_node(Cow::Borrowed(bytes)))
    }

    pub(super) fn int_line(&mut self) -> Result<()> {
        match self.line()? {
            b"00" => self.stack.push(FALSE),
            b"01" => self.stack.push(TRUE),
            line => return self.decimal_int(line),
        }
        Ok(())
    }

    pub(super) fn long_line(&mut self) -> Result<()> {
        let line = self.line()?;
        self.decimal_int(line.strip_suffix(b"L").unwrap_or(line))
    }

    pub(super) fn decimal_int(&mut self, digits: &'a [u8]) -> Result<()> {
        let read = match integer(digits, true) {
            Some(number) => match number.small() {
                Some(small) => Ok(Node::Int(small)),
                None => number.big().map(|bytes| long_node(Cow::Owned(bytes))),
            },
            None => Err(Error::damaged("an integer of the pickle is not a number")),
        };
        let node = match read {
            Err(_) if self.is_traced() => Node::Int(0),
            read => read?,
        };
        self.push(node)?;
        // Python 3.14 reads decimal numbers alone, and earlier ones in C or in Python other forms.
        if !is_plain(digits) {
            let id = self.top()?;
            self.lost(id);
        }
        Ok(())
    }

    pub(super) fn decimal_float(&mut self) -> Result<f64> {
        let line = self.line()?;
        let number = float(line).or(self.is_traced().then_some(0.0));
        number.ok_or_else(|| Error::damaged("a FLOAT of the pickle is not a number"))
    }
}

/// Whether every reader takes `digits` for the same number.
fn is_plain(digits: &[u8]) -> bool {
    let digits = digits.strip_prefix(b"-").unwrap_or(digits);
    matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit)
}

/// Text as Python wrote it; lone surrogates, which UTF-8 has no place for, become replacement characters.
pub(super) fn lossy(bytes: &[u8]) -> Arc<str> {
    text_of(bytes).into()
}

fn long_node(bytes: Cow<'_, [u8]>) -> Node<'_> {
    if bytes.len() <= 8 {
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut word = [fill; 8];
        word[..bytes.len()].copy_from_slice(&bytes);
        Node::Int(i64::from_le_bytes(word))
    } else {
        Node::BigInt(bytes)
    }
}

/// An integer as Python's `int` reads it.
pub(super) struct Integer {
    negative: bool,
    radix: u32,
    /// Values of the digits, without leading zeros.
    digits: Vec<u8>,
}

/// An integer between white space, with a sign, and with single underscores between its digits; up to a NUL, at which
/// C's strings end. `prefixed` is Python's base 0: a prefix names the base, and a leading zero is C's for octal.
pub(super) fn integer(line: &[u8], prefixed: bool) -> Option<Integer> {
    let text = stripped(line);
    let (negative, text) = match text {
        [sign @ (b'-' | b'+'), rest @ ..] => (*sign == b'-', rest),
        _ => (false, text),
    };
    let (radix, digits) = match text {
        [b'0', b'x' | b'X', rest @ ..] if prefixed => (16, rest.strip_prefix(b"_").unwrap_or(rest)),
        [b'0', b'o' | b'O', rest @ ..] if prefixed => (8, rest.strip_prefix(b"_").unwrap_or(rest)),
        [b'0', b'b' | b'B', rest @ ..] if prefixed => (2, rest.strip_prefix(b"_").unwrap_or(rest)),
        [b'0', _, ..] if prefixed => (8, text),
        _ => (10, text),
    };
    let digits = without_underscores(digits)?;
    let mut values = Vec::with_capacity(digits.len());
    for digit in digits {
        let value = char::from(digit).to_digit(radix)? as u8;
        if value > 0 || !values.is_empty() {
            values.push(value);
        }
    }
    Some(Integer { negative, radix, digits: values })
}

impl Integer {
    /// The digits of a number that is not negative.
    pub fn index(self) -> Option<Vec<u8>> {
        (!self.negative || self.digits.is_empty()).then_some(self.digits)
    }

    pub fn small(&self) -> Option<i64> {
        let digits = self.digits.iter();
        let sign = if self.negative { -1 } else { 1 };
        digits
            .copied()
            .try_fold(0i64, |n, digit| n.checked_mul(self.radix.into())?.checked_add(sign * i64::from(digit)))
    }

    /// Little-endian two's complement. Like CPython, no more than 4300 decimal digits: the conversion is quadratic.
    pub fn big(&self) -> Result<Vec<u8>> {
        if self.radix == 10 && self.digits.len() > 4300 {
            return Err(Error::damaged("an integer of the pickle has more than 4300 digits"));
        }
        let mut words: Vec<u64> = Vec::new();
        if self.radix == 10 {
            for part in self.digits.chunks(18) {
                let (mut carry, mut scale) = (0u128, 1u128);
                for &digit in part {
                    carry = carry * 10 + u128::from(digit);
                    scale *= 10;
                }
                for word in &mut words {
                    let wide = u128::from(*word) * scale + carry;
                    *word = wide as u64;
                    carry = wide >> 64;
                }
                if carry > 0 {
                    words.push(carry as u64);
                }
            }
        } else {
            let width = self.radix.trailing_zeros();
            let (mut wide, mut bits) = (0u128, 0);
            for &digit in self.digits.iter().rev() {
                wide |= u128::from(digit) << bits;
                bits += width;
                if bits >= 64 {
                    words.push(wide as u64);
                    (wide, bits) = (wide >> 64, bits - 64);
                }
            }
            words.push(wide as u64);
        }
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.truncate(bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1));
        bytes.push(0);
        if self.negative {
            let mut carry = true;
            for byte in &mut bytes {
                (*byte, carry) = (!*byte).overflowing_add(carry.into());
            }
        }
        Ok(bytes)
    }
}

/// A number as Python's `float` reads it.
pub(super) fn float(line: &[u8]) -> Option<f64> {
    let digits = without_underscores(stripped(line))?;
    String::from_utf8(digits).ok()?.parse().ok()
}

/// The text up to a NUL, without the white space of C around it.
fn stripped(line: &[u8]) -> &[u8] {
    let mut text = line.split(|&b| b == 0).next().unwrap_or_default();
    let blank = |b: &u8| matches!(b, b' ' | 9..=13);
    while let [first, rest @ ..] = text
        && blank(first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && blank(last)
    {
        text = rest;
    }
    text
}

/// `text` without the underscores between its digits; `None` if it is empty or has others.
fn without_underscores(text: &[u8]) -> Option<Vec<u8>> {
    let odd = text.windows(2).any(|pair| match pair {
        [b'_', after] => !after.is_ascii_alphanumeric(),
        [before, b'_'] => !before.is_ascii_alphanumeric(),
        _ => false,
    });
    if text.is_empty() || odd || text.starts_with(b"_") || text.ends_with(b"_") {
        return None;
    }
    Some(text.iter().copied().filter(|b| *b != b'_').collect())
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
                // The byte after a backslash begins no other escape.
                if let ([b'\\'], [next, after @ ..]) = (&[*first], tail) {
                    units.push(u16::from(*next));
                    rest = after;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What `int` and `float` of CPython 3.12 make of these, and where the C library's reading of them goes first.
    #[test]
    fn numbers_are_read_as_python_reads_them() {
        let decimal: [(&[u8], Option<i64>); 10] = [
            (b" +1_0 ", Some(10)),
            (b"010", Some(10)),
            (b"-0", Some(0)),
            (b"1\0junk", Some(1)),
            (b"\x0b7\x0c", Some(7)),
            (b"1__0", None),
            (b"_1", None),
            (b"1_", None),
            (b"- 1", None),
            (b"", None),
        ];
        for (text, number) in decimal {
            assert_eq!(integer(text, false).and_then(|n| n.small()), number, "{}", text.escape_ascii());
        }
        let prefixed: [(&[u8], Option<i64>); 7] = [
            (b"0x_fF", Some(255)),
            (b"-0b1", Some(-1)),
            (b"0o1_7", Some(15)),
            (b"010", Some(8)),
            (b"00_0", Some(0)),
            (b"-9223372036854775808", Some(i64::MIN)),
            (b"0x", None),
        ];
        for (text, number) in prefixed {
            assert_eq!(integer(text, true).and_then(|n| n.small()), number, "{}", text.escape_ascii());
        }
        for number in [1i128 << 64, -(1i128 << 64), i128::MAX / 3, -(i128::MAX / 3), -(1i128 << 63) - 1] {
            let sign = if number < 0 { "-" } else { "" };
            for text in [number.to_string(), format!("{sign}0x{:x}", number.unsigned_abs())] {
                let bytes = integer(text.as_bytes(), true).unwrap().big().unwrap();
                let mut wide = [if number < 0 { 0xff } else { 0 }; 16];
                let len = bytes.len().min(16);
                wide[..len].copy_from_slice(&bytes[..len]);
                assert_eq!(i128::from_le_bytes(wide), number, "{text}");
            }
        }
        assert_eq!(float(b" 1_0.5 "), Some(10.5));
        assert_eq!(float(b"1_.5"), None);
        assert_eq!(&*unescape_unicode(b"\\u0041\\\\u0041\\x"), "A\\\\u0041\\x");
    }
}
