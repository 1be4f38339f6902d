//! Signals that ask the program to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Failure;

/// From here on a limit on the size of files shows as an error of the write, instead of ending the program with its
/// temporary files left behind.
#[cfg(unix)]
pub fn survive_size_limits() {
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Ctrl-C and its kin: noted, so that the work can stop in order. A second one ends the program.
pub struct Signal {
    /// Set once a signal has arrived.
    pub flag: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signal {
    /// Listens from here on.
    pub fn listen() -> Result<Self, Failure> {
        let signal = Signal { flag: Arc::default(), number: Arc::default() };
        #[cfg(unix)]
        {
            use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
            use signal_hook::flag;
            let cannot = |e: std::io::Error| Failure::unwritable(format!("signals cannot be caught: {e}"));
            for number in [SIGINT, SIGTERM, SIGHUP] {
                flag::register_conditional_default(number, signal.flag.clone()).map_err(cannot)?;
                flag::register_usize(number, signal.number.clone(), number as usize).map_err(cannot)?;
                flag::register(number, signal.flag.clone()).map_err(cannot)?;
            }
        }
        Ok(signal)
    }

    /// Listens for Ctrl-C alone, which then never ends the program; whoever acts on it clears the flag.
    pub fn listen_for_interrupts() -> Result<Self, Failure> {
        let signal = Signal { flag: Arc::default(), number: Arc::default() };
        #[cfg(unix)]
        signal_hook::flag::register(signal_hook::consts::SIGINT, signal.flag.clone())
            .map_err(|e| Failure::unwritable(format!("signals cannot be caught: {e}")))?;
        Ok(signal)
    }

    /// Whether a signal has arrived.
    pub fn arrived(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// A stop that a signal asked for ends as the signal would have ended the program: 128 + its number.
    pub fn explain(&self, failure: Failure) -> Failure {
        Failure { code: self.code().unwrap_or(failure.code), ..failure }
    }

    /// 128 + the number of the signal that arrived.
    pub fn code(&self) -> Option<u8> {
        let number = self.number.load(Ordering::Relaxed);
        (number > 0).then_some((128 + number) as u8)
    }
}
