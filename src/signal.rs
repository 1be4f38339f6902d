//! Signals that ask the program to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(unix)]
use crate::exit;
use crate::{Failure, capture};

/// Handles two signals that would otherwise end the process silently. For programs that consist of this command line
/// only, before they start a thread: if another process truncates a mapped file while it is read, the program says so
/// and exits with the code for an unreadable file; a limit on file sizes shows as an error of the write, instead of
/// leaving temporary files behind.
pub fn handle_signals() {
    #[cfg(unix)]
    {
        explain_lost_pages();
        survive_size_limits();
    }
}

/// If another process truncates a mapped file while it is read, the system ends this one with SIGBUS. This handler says
/// why, with the exit code for an unreadable file, and restores the terminal.
#[cfg(unix)]
fn explain_lost_pages() {
    const WHY: &[u8] =
        b"error: a file was truncated while it was being read; try again when nothing writes to it\n";
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let explain = || {
        // Threads that read the same file get here together: the first one ends them all.
        while BEGUN.swap(true, Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        #[cfg(feature = "browse")]
        crate::browse::give_back_at_once();
        let _ = rustix::io::write(rustix::stdio::stderr(), WHY);
        signal_hook::low_level::exit(exit::UNREADABLE.into());
    };
    // SAFETY: no other thread runs yet that could set a handler at the same time. The standard library's would come
    // before this one, and let the next thread's signal end the program with its default action.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    // SAFETY: the handler does nothing but load atomics, write, tcsetattr and _exit, which are async-signal-safe.
    let _ = unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, explain) };
}

/// From here on a limit on file sizes shows as an error of the write, instead of ending the program and leaving its
/// temporary files behind.
#[cfg(unix)]
fn survive_size_limits() {
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Ctrl-C and similar signals: recorded, so that the work can stop in order. A second one ends the program.
pub struct Signal {
    /// Set once a signal has arrived.
    pub flag: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signal {
    /// Listens from here on. A captured command hears from its caller alone.
    pub fn listen() -> Result<Self, Failure> {
        if let Some(flag) = capture::stop() {
            return Ok(Signal { flag, number: Arc::default() });
        }
        let signal = Signal { flag: Arc::default(), number: Arc::default() };
        #[cfg(unix)]
        {
            use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
            use signal_hook::flag;
            let cannot =
                |e: std::io::Error| Failure::unwritable(format!("cannot install signal handlers: {e}"));
            for number in [SIGINT, SIGTERM, SIGHUP] {
                flag::register_conditional_default(number, signal.flag.clone()).map_err(cannot)?;
                flag::register_usize(number, signal.number.clone(), number as usize).map_err(cannot)?;
                flag::register(number, signal.flag.clone()).map_err(cannot)?;
            }
        }
        Ok(signal)
    }

    /// Listens for Ctrl-C alone, which then never ends the program; whoever acts on it clears the flag.
    #[cfg(feature = "infer")]
    pub fn listen_for_interrupts() -> Result<Self, Failure> {
        if let Some(flag) = capture::stop() {
            return Ok(Signal { flag, number: Arc::default() });
        }
        let signal = Signal { flag: Arc::default(), number: Arc::default() };
        #[cfg(unix)]
        signal_hook::flag::register(signal_hook::consts::SIGINT, signal.flag.clone())
            .map_err(|e| Failure::unwritable(format!("cannot install signal handlers: {e}")))?;
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
        let number = match self.number.load(Ordering::Relaxed) as u8 {
            0 if capture::is_stopped() => capture::SIGINT,
            number => number,
        };
        (number > 0).then_some(128 + number)
    }
}
