//! A command line run with what it writes kept, for programs that call it as a function.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ckpt_inspect::ErrorKind;

use crate::{Exit, Failure};

/// Threads that work on a command have the stack that the main thread of a program has.
const STACK: usize = 8 << 20;

thread_local! {
    /// Where the command that this thread works on writes, if not to the process's own outputs.
    static SINK: RefCell<Option<Arc<Sink>>> = const { RefCell::new(None) };
}

/// What a command wrote, and the flag that stops it.
#[derive(Default)]
struct Sink {
    output: Mutex<String>,
    messages: Mutex<Vec<Message>>,
    stop: Arc<AtomicBool>,
}

/// How [`capture`] ended, and what it would have printed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// How the command ended.
    pub exit: Exit,
    /// Standard output, without colours.
    pub output: String,
    /// What it had to say, in order.
    pub messages: Vec<Message>,
}

/// A message of a command, which the program prints to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// How serious it is.
    pub level: Level,
    /// Its text, without colours and without a word for its level.
    pub text: String,
    /// Of an error that comes from a checkpoint, its kind.
    pub kind: Option<ErrorKind>,
    /// The file that is at fault, where the message is about one.
    pub file: Option<PathBuf>,
}

/// How serious a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Something could not be done.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Something was done.
    Note,
}

/// Runs the command line `args`, the first of which is the program's name, as [`run`](crate::run) does, and returns
/// what it writes instead of printing it. Any number of calls may run at once: each works on threads of its own, and
/// gets its own output.
///
/// Colours and progress are off, no signal is listened to, and commands that need a terminal refuse. When `stop` is set,
/// a command stops as it does at Ctrl-C, with [`Exit::Signal`] of SIGINT: what it had begun to write is gone.
///
/// ```
/// let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/healthy-run/step-02000.pt");
/// let gate = ["ckpt", "gate", "--no-cache", "--format", "json", fixture];
/// let captured = ckpt::capture(gate, &Default::default());
/// assert_eq!(captured.exit, ckpt::Exit::Fine);
/// assert!(captured.output.starts_with('{'));
/// ```
pub fn capture<A: Into<OsString> + Clone>(
    args: impl IntoIterator<Item = A>,
    stop: &Arc<AtomicBool>,
) -> Captured {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let sink = Arc::new(Sink { stop: stop.clone(), ..Sink::default() });
    let mine = sink.clone();
    let threads = rayon::ThreadPoolBuilder::new()
        .stack_size(STACK)
        .thread_name(|i| format!("ckpt-{i}"))
        .start_handler(move |_| SINK.set(Some(mine.clone())))
        .build();
    let exit = match threads {
        Ok(threads) => threads.install(|| crate::run(args)),
        Err(error) => {
            let text = format!("no threads can be started: {error}");
            sink.tell(Level::Error, &Failure::unwritable(text));
            Exit::Unwritable
        }
    };
    let exit = if stop.load(Ordering::Relaxed) { Exit::Signal(SIGINT) } else { exit };
    Captured { exit, output: sink.taken(&sink.output), messages: sink.taken(&sink.messages) }
}

/// Its number is the same everywhere.
pub const SIGINT: u8 = 2;

impl Sink {
    fn taken<T: Default>(&self, of: &Mutex<T>) -> T {
        std::mem::take(&mut of.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, level: Level, failure: &Failure) {
        let text = anstream::adapter::strip_str(&failure.message).to_string();
        let message = Message { level, text, kind: failure.kind, file: failure.file.clone() };
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}

/// What `with` makes of the place that this thread's command writes to; `None` where that is the process's own.
fn sink<T>(with: impl FnOnce(&Sink) -> T) -> Option<T> {
    SINK.with_borrow(|sink| sink.as_deref().map(with))
}

/// Whether what is written here is kept.
pub fn is_captured() -> bool {
    sink(|_| ()).is_some()
}

/// The flag that stops this thread's command, if its caller has one.
pub fn stop() -> Option<Arc<AtomicBool>> {
    sink(|sink| sink.stop.clone())
}

/// Whether this thread's command has been asked to stop by its caller.
pub fn is_stopped() -> bool {
    sink(|sink| sink.stop.load(Ordering::Relaxed)).unwrap_or(false)
}

/// Why a command stops that its caller stopped.
pub fn interrupted() -> Failure {
    Failure::new(Exit::Signal(SIGINT).code(), "interrupted")
}

/// Keeps `text` as output; false where it is to be printed.
pub fn keep(text: &str) -> bool {
    let add = |sink: &Sink| {
        let text = anstream::adapter::strip_str(text).to_string();
        sink.output.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
    };
    sink(add).is_some()
}

/// Keeps a message; false where it is to be printed.
pub fn tell(level: Level, failure: &Failure) -> bool {
    sink(|sink| sink.tell(level, failure)).is_some()
}
