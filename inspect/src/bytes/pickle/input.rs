//! How the machine reads its input: bytes, lines, and the frames that a pickler puts around them.

use std::sync::Arc;

use super::machine::Machine;
use super::text::lossy;
use crate::bytes::Short;
use crate::{Error, Result};

impl<'a> Machine<'a> {
    /// Bytes that exist from here on, given or not.
    pub(super) fn left(&self) -> u64 {
        self.len - self.at as u64
    }

    /// Makes sure that the next `n` bytes were given.
    pub(super) fn have(&mut self, n: u64) -> Result<()> {
        if n > self.input.len().saturating_sub(self.at) as u64 {
            let left = self.left();
            if n <= left {
                self.short = Some(Short(self.at as u64 + n));
            }
            return Err(Error::damaged(format!(
                "a pickle opcode announces {n} bytes, and only {left} are left"
            )));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        self.leave_frame(n, true);
        self.taken(n)
    }

    /// Notes if the next `n` bytes reach beyond the frame in which they begin, which no pickler writes. Some readers
    /// refuse that; CPython's before 2026, reading from what cannot be looked ahead in, drop what is left of the frame and
    /// read on behind it, which a trace of `Reader::Framed` does where `drops`.
    pub(super) fn leave_frame(&mut self, n: u64, drops: bool) {
        let at = self.at as u64;
        let Some(end) = self.frame_end.filter(|end| at.saturating_add(n) > *end) else { return };
        self.frame_end = None;
        if at < end {
            self.note(|seen, opcode| seen.torn_frames.push(opcode));
            if drops && self.drops_frames() {
                self.at = end as usize;
            }
        }
    }

    pub(super) fn taken(&mut self, n: u64) -> Result<&'a [u8]> {
        self.have(n)?;
        let rest = &self.input[self.at..];
        self.at += n as usize;
        Ok(&rest[..n as usize])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N as u64)?.try_into().expect("take returns as many bytes as asked for"))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn line(&mut self) -> Result<&'a [u8]> {
        if let Some(end) = self.frame_end {
            let inside = &self.input[self.at..self.input.len().min(end as usize)];
            if !inside.contains(&b'\n') {
                // Whether the frame has one must be known.
                self.have(end - self.at as u64)?;
                self.leave_frame(end - self.at as u64 + 1, true);
                self.have(1)?;
            }
        }
        let rest = &self.input[self.at..];
        match rest.iter().position(|&b| b == b'\n') {
            Some(end) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            None if (rest.len() as u64) < self.left() => {
                self.have(rest.len() as u64 + 1)?;
                Ok(rest)
            }
            None if self.is_traced() && !rest.is_empty() => {
                self.at = self.input.len();
                Ok(rest)
            }
            None => Err(Error::damaged("a text argument of a pickle opcode has no end of line")),
        }
    }

    /// A line that is part of a name. Python's own unpickler takes the last byte of what a file ends with for the line's end.
    pub(super) fn name(&mut self) -> Result<Arc<str>> {
        if self.is_traced() && self.left() == 0 {
            return Ok(lossy(b""));
        }
        let line = self.line()?;
        let ended = self.input.get(self.at.wrapping_sub(1)) == Some(&b'\n');
        Ok(lossy(if ended { line } else { &line[..line.len() - 1] }))
    }

    pub(super) fn frame(&mut self) -> Result<()> {
        let len = u64::from_le_bytes(self.array()?);
        let left = self.left();
        if len > left {
            let what = format!("a pickle frame announces {len} bytes, and only {left} are left");
            if !self.is_traced() || self.drops_frames() {
                return Err(Error::damaged(what));
            }
            self.note(|seen, at| seen.torn_frames.push(at));
            self.frame_end = None;
            return Ok(());
        }
        let (begins, ends) = (self.at as u64, self.at as u64 + len);
        if self.frame_end.is_some_and(|end| begins < end && ends <= end) {
            // A frame in a frame, where Python's own unpickler ends.
            self.note(|seen, at| seen.torn_frames.push(at));
            return Ok(());
        }
        self.leave_frame(len, true);
        self.frame_end = Some(self.at as u64 + len);
        Ok(())
    }
}
