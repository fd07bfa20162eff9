//! F10 · Threads for what is dear or blocks, so that no reactor waits for it.
//!
//! Owns the threads and the lock around the jobs that wait. Knows nothing of what a job does: that is in `tokens`, and
//! a new kind is a file beside it. What comes of a job goes to a reactor by its mailbox. Kinds take turns, and each has
//! a bound of its own: a storm of handshakes does not delay or refuse anybody's token.

mod handshakes;
mod queue;
mod tokens;

pub use handshakes::{Handshake, Handshakes, Next, Stepped};
pub use queue::JobKind;
pub use tokens::TokenChecks;

use crate::base::metrics::Page;
use crate::broker::ConnKey;
use crate::config::WorkersOptions;
use queue::{Job, KINDS, Queue};
use rustix::process::{getpriority_process, setpriority_process};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// The threads, which end when it is dropped; jobs that wait then are not done.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wanted: Condvar,
    /// Jobs that wait, to be read without the lock.
    waiting: AtomicUsize,
}

struct State {
    /// By the numbers of the kinds.
    queues: [Queue; KINDS.len()],
    /// The kind whose turn it is.
    turn: usize,
    stopped: bool,
}

impl State {
    /// The next job, and its kind.
    fn next(&mut self) -> Option<(usize, Job)> {
        for _ in 0..KINDS.len() {
            let kind = self.turn;
            self.turn = (kind + 1) % KINDS.len();
            if let Some(job) = self.queues[kind].next() {
                return Some((kind, job));
            }
        }
        None
    }

    fn waiting(&self) -> usize {
        self.queues.iter().map(Queue::len).sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A job runs without the lock, so whoever panicked left the queue whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let Some((kind, Job { owner, came, work, .. })) = state.next() else {
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            self.waiting.store(state.waiting(), Ordering::Relaxed);
            drop(state);
            let began = Instant::now();
            let panicked = catch_unwind(AssertUnwindSafe(work)).is_err();
            let took = began.elapsed();
            state = self.lock();
            let queue = &mut state.queues[kind];
            queue.count(began.duration_since(came), took, panicked);
            queue.done(owner);
        }
    }
}

/// So many steps behind this process's other threads. On Linux a thread has a priority of its own.
fn stand_behind(steps: usize) -> std::io::Result<()> {
    const LAST: i32 = 19;
    if steps == 0 || !cfg!(target_os = "linux") {
        return Ok(());
    }
    let own = getpriority_process(None)?;
    Ok(setpriority_process(None, LAST.min(own + steps as i32))?)
}

impl Pool {
    /// Threads, by default for half of the cores and at least one, and the room for what waits for them.
    pub fn start(options: &WorkersOptions) -> std::io::Result<Pool> {
        let WorkersOptions { threads, queue_size, nice } = *options;
        let count = match threads {
            0 => thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1)),
            set => set,
        };
        let queues = KINDS.map(|_| Queue::new(queue_size));
        let state = Mutex::new(State { queues, turn: 0, stopped: false });
        let shared = Arc::new(Shared { state, wanted: Condvar::new(), waiting: AtomicUsize::new(0) });
        // If one does not start, dropping the others ends them.
        let mut pool = Pool { shared, threads: Vec::with_capacity(count) };
        for at in 0..count {
            let shared = pool.shared.clone();
            let work = move || {
                if let (Err(error), 0) = (stand_behind(nice), at) {
                    tracing::warn!(%error, "workers.nice is refused here: who connects may delay who is there");
                }
                shared.work();
            };
            pool.threads.push(thread::Builder::new().name(format!("worker-{at}")).spawn(work)?);
        }
        Ok(pool)
    }

    /// Has `work` done with `what`, which holds `size` bytes, in its turn; gives it back if there is no room. A panic
    /// ends the job and not the thread, or the process where panics abort, as in the profiles `release` and `dist`.
    pub fn offer<T: Send + 'static>(
        &self,
        (owner, kind): (ConnKey, JobKind),
        size: usize,
        what: T,
        work: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), T> {
        let mut state = self.shared.lock();
        let queue = &mut state.queues[kind as usize];
        if !queue.has_room(owner, size) {
            queue.tally.refused += 1;
            return Err(what);
        }
        let work = Box::new(move || work(what));
        let is_wanted = queue.push(Job { owner, size, came: Instant::now(), work });
        self.shared.waiting.store(state.waiting(), Ordering::Relaxed);
        drop(state);
        if is_wanted {
            self.shared.wanted.notify_one();
        }
        Ok(())
    }

    /// The connection is over: its jobs that wait are not done. To be called by the thread that offered them.
    pub fn forget(&self, owner: ConnKey) {
        // What that thread offered it sees; so nothing waits, and the lock is spared.
        if self.shared.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.shared.lock();
        state.queues.iter_mut().for_each(|queue| queue.forget(owner));
        self.shared.waiting.store(state.waiting(), Ordering::Relaxed);
    }

    /// Jobs refused so far, of all kinds.
    pub fn refused(&self) -> u64 {
        self.shared.lock().queues.iter().map(|queue| queue.tally.refused).sum()
    }

    /// All numbers as Prometheus text.
    pub fn write(&self, page: &mut Page) {
        let (tallies, waiting) = {
            let state = self.shared.lock();
            (state.queues.each_ref().map(|queue| queue.tally.clone()), state.waiting())
        };
        let labels = KINDS.map(|(_, label)| label.to_owned());
        let each = |of: fn(&queue::JobTally) -> u64| labels.iter().zip(tallies.iter().map(of));
        page.single("gannet_workers_threads", "Threads of the pool: workers.threads.", "gauge", self.threads.len());
        page.single("gannet_workers_waiting_jobs", "Jobs that wait for a worker.", "gauge", waiting);
        let help = "Jobs refused because workers.queue_size is used up: their clients got error 111, or were closed in a handshake.";
        page.labelled("gannet_workers_refused_jobs_total", help, "counter", "kind", each(|tally| tally.refused));
        let help = "Jobs that were not done because their connection ended before.";
        page.labelled("gannet_workers_abandoned_jobs_total", help, "counter", "kind", each(|tally| tally.left));
        let help =
            "Jobs that ended in a panic, a fault of the server's; in release builds a panic ends the process instead.";
        page.labelled("gannet_workers_panicked_jobs_total", help, "counter", "kind", each(|tally| tally.panicked));
        let help = "What jobs waited for a worker; a long tail wants more workers.threads.";
        let waited = labels.iter().zip(tallies.iter().map(|tally| &tally.waited));
        page.histograms("gannet_workers_wait_duration_seconds", help, "kind", waited);
        let took = labels.iter().zip(tallies.iter().map(|tally| &tally.took));
        page.histograms("gannet_workers_job_duration_seconds", "What jobs took a worker.", "kind", took);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wanted.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of a job was caught; there is no other.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    fn pool(threads: usize, jobs: usize) -> Pool {
        let options = WorkersOptions { threads, queue_size: jobs * queue::JOB_SIZE, ..WorkersOptions::default() };
        Pool::start(&options).expect("threads")
    }

    fn whose(index: u32) -> (ConnKey, JobKind) {
        (ConnKey { reactor: 0, index, generation: 0 }, JobKind::Token)
    }

    /// A job that says that it runs, and then waits to be let go.
    fn hold(pool: &Pool, index: u32) -> (Receiver<()>, Sender<()>) {
        let ((runs, running), (go, gone)) = (channel(), channel::<()>());
        let offered = pool.offer(whose(index), 0, (), move |()| {
            let _ = runs.send(());
            let _ = gone.recv();
        });
        assert!(offered.is_ok());
        (running, go)
    }

    fn metric(pool: &Pool, line: &str) -> bool {
        let mut page = Page::default();
        pool.write(&mut page);
        page.into_text().lines().any(|l| l == line)
    }

    #[test]
    fn jobs_of_a_connection_keep_their_order_and_others_need_not_wait() {
        let pool = pool(2, 4096);
        let (running, go) = hold(&pool, 0);
        running.recv_timeout(LONG).expect("a worker");
        let (say, said) = channel();
        for number in 0..1000 {
            let say = say.clone();
            assert!(
                pool.offer(whose(0), 0, number, move |number| say.send((0, number)).expect("somebody listens")).is_ok()
            );
        }
        // The first connection's thousand wait behind its own job; the second's are done meanwhile.
        for number in 0..100 {
            let say = say.clone();
            assert!(
                pool.offer(whose(1), 0, number, move |number| say.send((1, number)).expect("somebody listens")).is_ok()
            );
        }
        let take = |count: usize| -> Vec<_> { (0..count).map(|_| said.recv_timeout(LONG).expect("done")).collect() };
        assert_eq!(take(100), (0..100).map(|number| (1, number)).collect::<Vec<_>>());
        drop(go);
        assert_eq!(take(1000), (0..1000).map(|number| (0, number)).collect::<Vec<_>>());
    }

    #[test]
    fn beyond_its_bound_a_job_comes_back() {
        let pool = pool(1, 8);
        let (running, go) = hold(&pool, 0);
        running.recv_timeout(LONG).expect("a worker");
        let (say, said) = channel();
        let offer = |index: u32| {
            let say = say.clone();
            pool.offer(whose(index), 0, index, move |index| say.send(index).expect("somebody listens"))
        };
        let taken: Vec<_> = (0..8).map(|_| offer(1).is_ok()).collect();
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 4, "one connection has at most half");
        assert_eq!((offer(2), offer(2), offer(2)), (Ok(()), Ok(()), Err(2)));
        assert_eq!(pool.refused(), 5);
        assert!(metric(&pool, "gannet_workers_refused_jobs_total{kind=\"token\"} 5"));
        assert!(metric(&pool, "gannet_workers_waiting_jobs 6"));
        pool.forget(whose(1).0);
        assert!(metric(&pool, "gannet_workers_abandoned_jobs_total{kind=\"token\"} 4"));
        drop(go);
        assert_eq!([said.recv_timeout(LONG), said.recv_timeout(LONG)], [Ok(2), Ok(2)]);
        assert_eq!(offer(1), Ok(()));
        assert_eq!(said.recv_timeout(LONG), Ok(1), "room again");
    }

    #[test]
    fn workers_stand_behind_the_thread_that_started_them() {
        let own = getpriority_process(None).expect("a priority");
        for nice in [0, 7] {
            let pool =
                Pool::start(&WorkersOptions { threads: 1, nice, ..WorkersOptions::default() }).expect("a thread");
            let (say, said) = channel();
            let job = move |()| say.send(getpriority_process(None)).expect("somebody listens");
            assert!(pool.offer(whose(0), 0, (), job).is_ok());
            let theirs = said.recv_timeout(LONG).expect("done").expect("a priority");
            assert_eq!(theirs, (own + nice as i32).min(19));
        }
        assert_eq!(getpriority_process(None).expect("a priority"), own, "and nobody else does");
    }

    #[test]
    fn a_panic_ends_the_job_and_not_the_thread() {
        let pool = pool(1, 64);
        for _ in 0..3 {
            assert!(pool.offer(whose(0), 0, (), |()| panic!("a job that fails, as this test wants it to")).is_ok());
        }
        let (say, said) = channel();
        assert!(pool.offer(whose(0), 0, (), move |()| say.send(()).expect("somebody listens")).is_ok());
        said.recv_timeout(LONG).expect("the thread lives");
        assert!(metric(&pool, "gannet_workers_panicked_jobs_total{kind=\"token\"} 3"));
    }

    #[test]
    fn it_ends_with_jobs_left() {
        let pool = pool(2, 64);
        let held: Vec<_> = (0..2).map(|index| hold(&pool, index)).collect();
        held.iter().for_each(|(running, _)| running.recv_timeout(LONG).expect("a worker"));
        let (say, said) = channel();
        assert!(pool.offer(whose(0), 0, (), move |()| say.send(()).expect("somebody listens")).is_ok());
        let shared = pool.shared.clone();
        let ending = thread::spawn(move || drop(pool));
        while !shared.lock().stopped {
            thread::yield_now();
        }
        drop(held);
        ending.join().expect("both threads are gone");
        drop(shared);
        assert!(said.recv_timeout(LONG).is_err(), "dropped, and not done");
    }
}
