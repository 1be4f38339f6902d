//! Long work without the interpreter's lock, that Ctrl-C stops.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::ThreadPool;

/// How often the interpreter is asked whether a signal has arrived.
const POLL: Duration = Duration::from_millis(50);
/// How long work that was told to stop has for it. It may be at a place where it does not look; then it ends by itself,
/// and nobody waits for what comes of it.
const GRACE: Duration = Duration::from_secs(2);
/// The stack that the main thread of a program has.
const STACK: usize = 8 << 20;

/// The result of `work`, which runs on a thread of its own while other threads of Python run. A signal whose handler
/// raises, such as Ctrl-C, sets `stop`.
///
/// # Errors
/// What the handler of a signal raised.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    stop: &Arc<AtomicBool>,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (done, result) = mpsc::channel();
    let work = move || {
        // Nobody may be waiting any more.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    };
    std::thread::Builder::new().name("ckpt".into()).stack_size(STACK).spawn(work)?;
    py.detach(move || {
        loop {
            match result.recv_timeout(POLL) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(panic)) => resume_unwind(panic),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("the thread that worked on it is gone"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(raised) = Python::attach(|py| py.check_signals()) {
                        stop.store(true, Ordering::Relaxed);
                        let _ = result.recv_timeout(GRACE);
                        return Err(raised);
                    }
                }
            }
        }
    })
}

/// The threads that decode and measure. They belong to this process: one that was forked has none of its parent's, and
/// gets its own.
///
/// # Errors
/// When no threads can be started.
pub fn threads() -> PyResult<Arc<ThreadPool>> {
    static THREADS: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
    let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    match threads.take() {
        Some((of, known)) if of == process => {
            *threads = Some((of, known.clone()));
            return Ok(known);
        }
        // Its threads are not there to be waited for.
        Some((_, of_parent)) => std::mem::forget(of_parent),
        None => {}
    }
    let made = rayon::ThreadPoolBuilder::new().stack_size(STACK).thread_name(|i| format!("ckpt-{i}")).build();
    let made = Arc::new(made.map_err(|e| PyRuntimeError::new_err(e.to_string()))?);
    *threads = Some((process, made.clone()));
    Ok(made)
}
