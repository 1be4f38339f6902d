//! Pickles, opcode by opcode. Nothing here can run one.

use crate::numbers::le;

/// The pickle of `protocol` whose body is `body`: a header from protocol 2 on, and STOP.
pub fn pickle(protocol: u8, body: &[u8]) -> Vec<u8> {
    let header: &[u8] = if protocol < 2 { b"" } else { &[0x80, protocol] };
    [header, body, b"."].concat()
}

/// GLOBAL.
pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// SHORT_BINUNICODE, of protocol 4.
pub fn short_text(text: &str) -> Vec<u8> {
    [&[0x8c, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// BINUNICODE.
pub fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &le(&[text.len() as u32]), text.as_bytes()].concat()
}

/// BININT.
pub fn int(number: i32) -> Vec<u8> {
    [&b"J"[..], &le(&[number])].concat()
}

/// LONG1 of eight bytes.
pub fn long(number: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &le(&[number])].concat()
}

/// BINBYTES8, of protocol 4.
pub fn bytes8(bytes: &[u8]) -> Vec<u8> {
    [&[0x8e][..], &le(&[bytes.len() as u64]), bytes].concat()
}

/// MARK, `items`, TUPLE.
pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &items.concat(), b"t"].concat()
}

/// A tuple of integers.
pub fn sizes(numbers: &[usize]) -> Vec<u8> {
    tuple(&numbers.iter().map(|&n| long(n as i64)).collect::<Vec<_>>())
}

/// EMPTY_DICT, and SETITEMS of keys and values.
pub fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&b"}("[..], &items, b"u"].concat()
}

/// EMPTY_LIST, and APPENDS of `items`.
pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"]("[..], &items.concat(), b"e"].concat()
}

/// REDUCE of `callable` with the tuple `arguments`.
pub fn call(callable: &[u8], arguments: &[Vec<u8>]) -> Vec<u8> {
    [callable, &tuple(arguments), b"R"].concat()
}

/// BINPERSID of `id`.
pub fn persistent(id: &[u8]) -> Vec<u8> {
    [id, b"Q"].concat()
}
