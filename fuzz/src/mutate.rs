//! Changes of the kinds that readers get wrong.

use ckpt_kit::random::Random;

use super::seeds::Seed;

/// Numbers at whose edges sums wrap and sizes overflow.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// One to eight changes of `seed`, with parts of `others`.
pub fn mutate(random: &mut Random, seed: &[u8], others: &[Seed]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(8) {
        if bytes.is_empty() {
            bytes.push(random.bits() as u8);
        }
        change(random, &mut bytes, others);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, others: &[Seed]) {
    let at = place(random, bytes.len());
    let run = at..(at + 1 + random.below(64)).min(bytes.len());
    match random.below(14) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 | 3 => bytes[at] = random.bits() as u8,
        4..=6 => number(random, &mut bytes[at..]),
        7 => digits(random, bytes, at),
        8 => bytes.truncate(at),
        9 => drop(bytes.drain(run)),
        10 => {
            let copy = bytes[run].to_vec();
            let to = place(random, bytes.len());
            bytes.splice(to..to, copy);
        }
        11 => {
            let new: Vec<u8> = run.map(|_| random.bits() as u8).collect();
            bytes.splice(at..at, new);
        }
        12 => {
            let other = &random.pick(others).bytes;
            let from = place(random, other.len().max(1)).min(other.len());
            let part = &other[from..(from + run.len() * 4).min(other.len())];
            let end = (at + part.len()).min(bytes.len());
            bytes.splice(at..end, part.iter().copied());
        }
        _ => {
            let to = place(random, bytes.len());
            let len = run.len().min(bytes.len() - to);
            bytes.copy_within(at..at + len, to);
        }
    }
}

/// Somewhere in `len` bytes: half of the time where headers, directories and tables are.
fn place(random: &mut Random, len: usize) -> usize {
    let edge = len.min(768);
    match random.below(4) {
        0 => random.below(edge),
        1 => len - 1 - random.below(edge),
        _ => random.below(len),
    }
}

/// Overwrites a number of one to eight bytes, or adds to it.
fn number(random: &mut Random, bytes: &mut [u8]) {
    let size = 1 << random.below(4);
    let Some(field) = bytes.get_mut(..size) else { return };
    let big_endian = random.below(4) == 0;
    if big_endian {
        field.reverse();
    }
    let mut value = [0; 8];
    value[..size].copy_from_slice(field);
    let value = match random.below(3) {
        0 => u64::from_le_bytes(value).wrapping_add(1 + random.below(32) as u64),
        1 => u64::from_le_bytes(value).wrapping_sub(1 + random.below(32) as u64),
        _ => *random.pick(&NUMBERS),
    };
    field.copy_from_slice(&value.to_le_bytes()[..size]);
    if big_endian {
        field.reverse();
    }
}

/// Another number in place of the next one that is written in digits.
fn digits(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = random.pick(&NUMBERS).to_string();
    bytes.splice(start..start + len, number.into_bytes());
}
