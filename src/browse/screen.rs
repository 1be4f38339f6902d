//! The terminal: taken over, drawn to, read from, and always restored to its earlier state.

use std::io::{self, Stdout, Write};
#[cfg(unix)]
use std::sync::OnceLock;
#[cfg(unix)]
use std::sync::atomic::AtomicI32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::state::{Message, State};
use super::view;

/// Whether the terminal is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The state of the terminal before it was ours.
#[cfg(unix)]
static BEFORE: OnceLock<rustix::termios::Termios> = OnceLock::new();
/// The signal that asked to leave, 0 for none.
#[cfg(unix)]
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The terminal, until it is dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes over the terminal. From here on a panic, on any thread, restores it before it is printed.
    pub fn enter() -> io::Result<Self> {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let was_taken = give_back();
            tell(panic);
            // A thread's panic would leave the rest running, without a screen.
            if was_taken && std::thread::current().name() != Some("main") {
                std::process::exit(101);
            }
        }));
        #[cfg(unix)]
        give_back_on_faults();
        take()?;
        Ok(Screen { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))? })
    }

    /// Columns and lines.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Shows `state`.
    pub fn draw(&mut self, state: &State) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(state, frame.buffer_mut())).map(drop)
    }

    /// Puts `text` on the clipboard of the user's own machine, if the terminal does that (OSC 52).
    pub fn copy(&mut self, text: &str) -> io::Result<()> {
        execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text))
    }

    /// Stops the program, as the shell's job control does, until it is continued.
    pub fn suspend(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        {
            give_back();
            signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP)?;
            take()?;
            self.terminal.clear()?;
        }
        Ok(())
    }

    /// Gives the terminal back.
    pub fn leave(self) {}
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    #[cfg(unix)]
    if let Ok(before) = rustix::termios::tcgetattr(rustix::stdio::stdin()) {
        let _ = BEFORE.set(before);
    }
    TAKEN.store(true, Ordering::SeqCst);
    let taken = enable_raw_mode()
        .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, cursor::Hide));
    if taken.is_err() {
        give_back();
    }
    taken
}

/// Restores the terminal, once; returns whether it was ours. Errors cannot be reported here.
fn give_back() -> bool {
    let was_taken = TAKEN.swap(false, Ordering::SeqCst);
    if was_taken {
        let _ = execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
        let _ = io::stdout().flush();
        let _ = disable_raw_mode();
    }
    was_taken
}

/// Gives the terminal back, if it ever was ours, from within a signal handler, after which the program must end:
/// nothing here locks, allocates or waits.
#[cfg(unix)]
pub fn give_back_at_once() {
    /// What [`give_back`] writes.
    const LEAVE: &[u8] = b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h";
    let Some(before) = BEFORE.get() else { return };
    let _ = rustix::io::write(rustix::stdio::stdout(), LEAVE);
    let now = rustix::termios::OptionalActions::Now;
    let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), now, before);
}

/// The signals of a fault, which end the program at once.
#[cfg(unix)]
const FATAL: [libc::c_int; 6] =
    [libc::SIGABRT, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// From here on a fault gives the terminal back before it ends the program.
#[cfg(unix)]
fn give_back_on_faults() {
    extern "C" fn end(signal: libc::c_int) {
        give_back_at_once();
        // SAFETY: signal and raise are async-signal-safe. The signal is blocked until this returns, and then ends the
        // program as it would have without a handler.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    for signal in FATAL {
        // SAFETY: all zeros are a sigaction without flags that blocks nothing; the handler does nothing but load an
        // atomic, write, tcsetattr, signal and raise, which are async-signal-safe. A stack that overflowed is left for
        // the one that the standard library set aside.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = end as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Takes note of the signals that ask to leave, from before the terminal is taken over.
pub struct Listener {
    #[cfg(unix)]
    signals: Option<signal_hook::iterator::Signals>,
}

impl Listener {
    /// From here on such a signal waits to be heard, instead of ending the program at once.
    pub fn new() -> Self {
        Listener {
            #[cfg(unix)]
            signals: {
                use signal_hook::consts::*;
                let asking =
                    [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGXCPU];
                signal_hook::iterator::Signals::new(asking).ok()
            },
        }
    }

    /// Sends what the user does, and what signals ask for, to `messages`.
    pub fn listen(self, messages: Sender<Message>) {
        #[cfg(unix)]
        if let Some(mut signals) = self.signals {
            let messages = messages.clone();
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    SIGNAL.store(signal, Ordering::SeqCst);
                    let _ = messages.send(Message::Leave);
                }
            });
        }
        std::thread::spawn(move || {
            while let Ok(event) = crossterm::event::read() {
                if messages.send(Message::Input(event)).is_err() {
                    return;
                }
            }
            // The terminal is gone.
            let _ = messages.send(Message::Leave);
        });
    }
}

/// Ends the program as the signal that asked for it would have, so that its parent sees the right status.
pub fn obey_signal() {
    #[cfg(unix)]
    if let signal @ 1.. = SIGNAL.load(Ordering::SeqCst) {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read;

    use portable_pty::{CommandBuilder, PtySize, native_pty_system};

    /// Run by the test below, in a terminal of its own.
    #[test]
    #[ignore = "takes over the terminal"]
    fn takes_the_terminal_and_panics() {
        let screen = super::Screen::enter().unwrap();
        std::thread::spawn(|| panic!("so be it")).join().unwrap_err();
        drop(screen);
    }

    #[test]
    fn a_panic_restores_the_terminal_before_it_is_printed() {
        let pty = native_pty_system().openpty(PtySize { rows: 24, cols: 80, ..PtySize::default() }).unwrap();
        let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
        command.args(["--exact", "browse::screen::tests::takes_the_terminal_and_panics"]);
        command.args(["--ignored", "--nocapture"]);
        let mut child = pty.slave.spawn_command(command).unwrap();
        let mut reader = pty.master.try_clone_reader().unwrap();
        drop(pty.slave);
        let mut bytes = Vec::new();
        // Ends with an error when the last writer is gone.
        let _ = reader.read_to_end(&mut bytes);
        assert_eq!(child.wait().unwrap().exit_code(), 101);
        let text = String::from_utf8_lossy(&bytes);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what:?} is not in {text:?}"));
        assert!(at("\x1b[?1049h") < at("\x1b[?1049l"), "{text:?}");
        assert!(at("\x1b[?1049l") < at("so be it"), "{text:?}");
        assert!(at("\x1b[?25h") < at("so be it"), "{text:?}");
        assert!(at("\x1b[?1000l") < at("so be it"), "{text:?}");
    }
}
