//! How a command ends, for scripts and CI systems.

use std::process::ExitCode;

/// Success.
pub const FINE: u8 = 0;
/// The gate or a verification says no; two checkpoints differ.
pub const REFUSED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// A file cannot be read or is damaged.
pub const UNREADABLE: u8 = 3;
/// An output cannot be written.
pub const UNWRITABLE: u8 = 4;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Success.
    Fine,
    /// The gate or a verification failed; two checkpoints differ.
    Refused,
    /// Wrong usage.
    Usage,
    /// A file cannot be read or is damaged.
    Unreadable,
    /// An output cannot be written.
    Unwritable,
    /// The signal of this number asked it to stop, which it did in order.
    Signal(u8),
}

impl Exit {
    /// The exit code that says so, of a signal 128 + its number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Fine => FINE,
            Exit::Refused => REFUSED,
            Exit::Usage => USAGE,
            Exit::Unreadable => UNREADABLE,
            Exit::Unwritable => UNWRITABLE,
            Exit::Signal(number) => 128 | number,
        }
    }

    pub(crate) fn of(code: u8) -> Exit {
        match code {
            FINE => Exit::Fine,
            REFUSED => Exit::Refused,
            USAGE => Exit::Usage,
            UNREADABLE => Exit::Unreadable,
            UNWRITABLE => Exit::Unwritable,
            signal => Exit::Signal(signal & 127),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        exit.code().into()
    }
}
