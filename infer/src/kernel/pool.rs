//! Threads that share one call's work, made for regions of a few microseconds: between the regions of one step the
//! workers watch for the next one, and after a few dozen microseconds without work they sleep.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The number of times that a worker checks the ticket before it sleeps: some 30 to 100 microseconds.
const LOOKS: usize = 4000;

/// Threads that run the tasks of one region at a time, the caller's among them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One region at a time.
    region: Mutex<()>,
}

/// A region's tasks, on the stack of the thread that calls [`Pool::run`].
struct Job<'f> {
    task: &'f (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Debug)]
struct Shared {
    /// Which tasks are left: see [`Ticket`]. Claiming one is one addition.
    ticket: AtomicU64,
    job: AtomicPtr<()>,
    done: AtomicUsize,
    sleepers: AtomicUsize,
    stop: Mutex<bool>,
    wake: Condvar,
}

/// Number of tasks and next task in one word, so that whoever claims a task knows whether it exists. A claimed task
/// keeps its region's job alive until it is done.
struct Ticket(u64);

impl Ticket {
    fn before_the_first(tasks: usize) -> u64 {
        // The headroom is for late claims, one per thread.
        assert!(tasks < (1 << 31), "fewer than 2^31 tasks a region");
        (tasks as u64) << 32
    }
    fn next(&self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
    fn has_more(&self) -> bool {
        self.next() < (self.0 >> 32) as usize
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's included: `threads - 1` are started, or as many as the system allows.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            done: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            stop: Mutex::new(false),
            wake: Condvar::new(),
        });
        let start = |n| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("ckpt-infer-{n}")).spawn(move || shared.work()).ok()
        };
        let workers = (1..threads.clamp(1, 1 << 10)).map_while(start).collect();
        Pool { shared, workers, region: Mutex::new(()) }
    }

    /// Threads that take part, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, on any thread and in any order, and returns when all are done.
    ///
    /// # Panics
    /// When a task panics, with its payload, after the others are done.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(task);
        }
        let _region = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let job = Job { task, panic: Mutex::new(None) };
        shared.done.store(0, Ordering::Relaxed);
        shared.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        shared.ticket.store(Ticket::before_the_first(tasks), Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        shared.claim();
        let mut looks = 0;
        while shared.done.load(Ordering::Acquire) < tasks {
            looks += 1;
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Splits `out`, rows of `width` elements, at the given row and column boundaries (ascending, the first and last
    /// ones included) and calls `task(first_row, first_column, block)` for every block, columns varying fastest.
    ///
    /// # Panics
    /// When boundaries do not ascend or lie outside `out`, or a task panics.
    pub fn blocks<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        rows: &[usize],
        cols: &[usize],
        task: impl Fn(usize, usize, Block<'_, T>) + Sync,
    ) {
        assert!(rows.is_sorted() && cols.is_sorted(), "boundaries ascend");
        assert!(cols.last().is_none_or(|&last| last <= width), "columns lie within the width");
        assert!(
            rows.last().is_none_or(|&last| last <= out.len() / width.max(1)),
            "rows lie within the output"
        );
        let (down, across) = (rows.len().saturating_sub(1), cols.len().saturating_sub(1));
        let base = SendPtr(out.as_mut_ptr());
        self.run(down * across, &|i| {
            let (row, col) = (&rows[i / across..][..2], &cols[i % across..][..2]);
            // SAFETY: the block starts within `out`.
            let data = unsafe { base.get().add(row[0] * width + col[0]) };
            let block =
                Block { data, width, rows: row[1] - row[0], cols: col[1] - col[0], borrow: PhantomData };
            task(row[0], col[0], block);
        });
    }

    /// Calls `task(i)` for every i below `n` and gathers what they return, in order.
    pub fn map<T: Send>(&self, n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let mut out: Vec<Option<T>> = (0..n).map(|_| None).collect();
        let rows: Vec<usize> = (0..=n).collect();
        self.blocks(&mut out, 1, &rows, &[0, 1], |i, _, mut slot| slot.row(0)[0] = Some(task(i)));
        out.into_iter().flatten().collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // Workers never panic, because panics of tasks are caught.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Claims and does tasks until the current region has none left.
    fn claim(&self) {
        while Ticket(self.ticket.load(Ordering::Relaxed)).has_more() {
            let ticket = Ticket(self.ticket.fetch_add(1, Ordering::AcqRel));
            if !ticket.has_more() {
                return;
            }
            // SAFETY: the task was claimed from the current region and is not done, so `run` has not returned
            // and its job is alive; the pointer was stored before the ticket that was read with Acquire.
            let job = unsafe { &*self.job.load(Ordering::Relaxed).cast::<Job<'_>>() };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.task)(ticket.next()))) {
                job.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn work(&self) {
        let has_more = || Ticket(self.ticket.load(Ordering::SeqCst)).has_more();
        let mut looks = 0;
        loop {
            if has_more() {
                self.claim();
                looks = 0;
            } else if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                // Announced before the last look, and `run` looks for sleepers after it stores the ticket: one of
                // the two sees the other. Waiting gives up the lock that notifying needs.
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
                while !*stop && !has_more() {
                    stop = self.wake.wait(stop).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                if *stop {
                    return;
                }
                looks = 0;
            }
        }
    }
}

/// A rectangle of a matrix that one task may write.
#[derive(Debug)]
pub struct Block<'a, T> {
    data: *mut T,
    width: usize,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Block<'_, T> {
    /// Rows of the block.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the block.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row` of the block.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        // SAFETY: the block's rows and columns lie within the output that `blocks` borrows for as long as tasks run,
        // and no two blocks overlap because boundaries ascend.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.width), self.cols) }
    }
}

struct SendPtr<T>(*mut T);

impl<T> SendPtr<T> {
    /// A method, so that closures capture the whole struct.
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: tasks reach disjoint elements through it, and elements may be sent between threads.
unsafe impl<T: Send> Sync for SendPtr<T> {}

/// Boundaries that cut `range` into parts of `step`, the last one shorter.
pub fn cuts(range: Range<usize>, step: usize) -> Vec<usize> {
    let end = range.end;
    let mut cuts: Vec<usize> = range.step_by(step.max(1)).collect();
    cuts.push(end);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for round in 0..2000 {
                let tasks = round % 37;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, round {round}"
                );
            }
        }
    }

    #[test]
    fn sleepers_wake() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(3));
            assert_eq!(pool.map(10, |i| i * i), [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
        }
    }

    #[test]
    fn blocks_cover_a_matrix() {
        let pool = Pool::new(2);
        let mut out = vec![0usize; 7 * 10];
        pool.blocks(&mut out, 10, &cuts(0..7, 3), &[0, 4, 4, 10], |row, col, mut block| {
            for r in 0..block.rows() {
                for (c, slot) in block.row(r).iter_mut().enumerate() {
                    *slot += 100 * (row + r) + col + c;
                }
            }
        });
        assert!(out.iter().enumerate().all(|(i, &x)| x == 100 * (i / 10) + i % 10));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_spares_the_pool() {
        let pool = Pool::new(2);
        let panicking = || pool.run(8, &|i| assert!(i != 5, "task five"));
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert_eq!(pool.map(3, |i| i), [0, 1, 2]);
    }
}
