//! F10 · The jobs of one kind that wait for a worker: whose turn it is, and how many may wait.
//!
//! Owns the order, the bound and the counts. Knows nothing of threads: `mod` has the lock around it.
//!
//! Jobs of one connection are done one after the other, in their order, and connections take turns. So a client with a
//! thousand tokens has one worker at most and delays nobody by more than one job in a round. Turns go by connection,
//! because a job may come before anybody knows whose it is, and an address may stand for a thousand clients; how many
//! connections an address may have is another option's.

use crate::base::metrics::Latency;
use crate::broker::ConnKey;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a waiting job counts as, at least: itself, and its place.
pub const JOB_SIZE: usize = 1024;

/// Jobs that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// The signature of a token.
    Token,
    /// A step of a TLS handshake.
    Handshake,
}

/// Each kind with its label, in the order of their numbers.
pub(super) const KINDS: [(JobKind, &str); 2] = [(JobKind::Token, "token"), (JobKind::Handshake, "handshake")];

pub(super) struct Job {
    pub owner: ConnKey,
    /// Bytes that it holds while it waits.
    pub size: usize,
    pub came: Instant,
    /// What is to be done. It sends by itself what comes of it.
    pub work: Box<dyn FnOnce() + Send>,
}

impl Job {
    fn cost(&self) -> usize {
        self.size.max(JOB_SIZE)
    }
}

/// What was counted of a kind.
#[derive(Debug, Clone, Default)]
pub(super) struct JobTally {
    pub refused: u64,
    /// Jobs whose connection ended before their turn came.
    pub left: u64,
    pub panicked: u64,
    pub waited: Latency,
    pub took: Latency,
}

/// The jobs of one connection.
#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    cost: usize,
    /// A worker has one of them.
    busy: bool,
}

pub(super) struct Queue {
    lines: HashMap<ConnKey, Line, RandomState>,
    /// Connections that have jobs and no worker, in their turn. One that left is passed over.
    turns: VecDeque<ConnKey>,
    cost: usize,
    cost_max: usize,
    jobs: usize,
    pub tally: JobTally,
}

impl Queue {
    /// A queue of at most `cost_max` bytes.
    pub fn new(cost_max: usize) -> Queue {
        let (lines, turns) = (HashMap::default(), VecDeque::new());
        Queue { lines, turns, cost: 0, cost_max, jobs: 0, tally: JobTally::default() }
    }

    /// Is there room for a job of `size` bytes? A connection may have as much waiting as is free: whoever has little is
    /// taken while others fill the queue, and one alone gets half of it.
    pub fn has_room(&self, owner: ConnKey, size: usize) -> bool {
        let own = self.lines.get(&owner).map_or(0, |line| line.cost);
        own + size.max(JOB_SIZE) <= self.cost_max.saturating_sub(self.cost)
    }

    /// Takes a job for which there is room; true if a worker is wanted for it.
    pub fn push(&mut self, job: Job) -> bool {
        let (owner, cost) = (job.owner, job.cost());
        let line = self.lines.entry(owner).or_default();
        let has_turn = line.busy || !line.jobs.is_empty();
        line.jobs.push_back(job);
        line.cost += cost;
        self.cost += cost;
        self.jobs += 1;
        if !has_turn {
            self.turns.push_back(owner);
        }
        !has_turn
    }

    /// The next job. Its connection has no other until [`Queue::done`].
    pub fn next(&mut self) -> Option<Job> {
        while let Some(owner) = self.turns.pop_front() {
            let Some(line) = self.lines.get_mut(&owner).filter(|line| !line.busy) else { continue };
            let Some(job) = line.jobs.pop_front() else { continue };
            line.busy = true;
            line.cost -= job.cost();
            self.cost -= job.cost();
            self.jobs -= 1;
            return Some(job);
        }
        None
    }

    /// A job of `owner` was done: its connection waits for its next turn, if it has more.
    pub fn done(&mut self, owner: ConnKey) {
        let Some(line) = self.lines.get_mut(&owner) else { return };
        line.busy = false;
        match line.jobs.is_empty() {
            true => drop(self.lines.remove(&owner)),
            false => self.turns.push_back(owner),
        }
    }

    /// Counts a job that was done.
    pub fn count(&mut self, waited: Duration, took: Duration, panicked: bool) {
        let tally = &mut self.tally;
        tally.waited.record_us(waited.as_micros() as u64);
        tally.took.record_us(took.as_micros() as u64);
        tally.panicked += u64::from(panicked);
    }

    /// The connection is over: nobody waits for its jobs.
    pub fn forget(&mut self, owner: ConnKey) {
        let Some(line) = self.lines.get_mut(&owner) else { return };
        self.cost -= std::mem::take(&mut line.cost);
        self.tally.left += line.jobs.len() as u64;
        self.jobs -= line.jobs.len();
        line.jobs.clear();
        if !line.busy {
            self.lines.remove(&owner);
        }
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    fn conn(index: u32) -> ConnKey {
        ConnKey { reactor: 0, index, generation: 0 }
    }

    /// Jobs that note their connection and number when they are done.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<(u32, u32)>>>);

    impl Notes {
        fn job(&self, owner: u32, number: u32, size: usize) -> Job {
            let notes = self.0.clone();
            let work = Box::new(move || notes.lock().expect("notes").push((owner, number)));
            Job { owner: conn(owner), size, came: Instant::now(), work }
        }

        fn taken(&self) -> Vec<(u32, u32)> {
            std::mem::take(&mut self.0.lock().expect("notes"))
        }
    }

    /// Does one job; false if there is none.
    fn step(queue: &mut Queue) -> bool {
        let Some(job) = queue.next() else { return false };
        let owner = job.owner;
        (job.work)();
        queue.done(owner);
        true
    }

    #[test]
    fn kinds_are_numbered_as_they_are_listed() {
        assert!(KINDS.iter().enumerate().all(|(at, (kind, _))| *kind as usize == at));
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let (mut queue, notes) = (Queue::new(1 << 20), Notes::default());
        for number in 0..100 {
            queue.push(notes.job(1, number, 0));
        }
        step(&mut queue);
        queue.push(notes.job(2, 0, 0));
        queue.push(notes.job(3, 0, 0));
        queue.push(notes.job(3, 1, 0));
        (0..7).for_each(|_| assert!(step(&mut queue)));
        assert_eq!(notes.taken(), [(1, 0), (1, 1), (2, 0), (3, 0), (1, 2), (3, 1), (1, 3), (1, 4)]);
    }

    #[test]
    fn a_connection_has_one_worker_at_most() {
        let (mut queue, notes) = (Queue::new(1 << 20), Notes::default());
        assert!(queue.push(notes.job(1, 0, 0)));
        assert!(!queue.push(notes.job(1, 1, 0)), "its turn comes anyway");
        let first = queue.next().expect("a job");
        assert!(queue.next().is_none() && !queue.push(notes.job(1, 2, 0)));
        assert!(queue.push(notes.job(2, 0, 0)));
        assert_eq!(queue.next().map(|job| job.owner), Some(conn(2)));
        queue.done(first.owner);
        assert_eq!(queue.next().map(|job| job.owner), Some(conn(1)));
    }

    #[test]
    fn one_alone_gets_half_and_leaves_room_for_others() {
        let (mut queue, notes) = (Queue::new(64 * JOB_SIZE), Notes::default());
        let fill = |queue: &mut Queue, owner: u32, size: usize| {
            let mut taken = 0;
            while queue.has_room(conn(owner), size) {
                queue.push(notes.job(owner, taken, size));
                taken += 1;
            }
            taken
        };
        assert_eq!(fill(&mut queue, 1, 0), 32);
        assert_eq!(fill(&mut queue, 2, 0), 16);
        assert_eq!(fill(&mut queue, 3, 10), 8);
        // Bytes count, and not only jobs.
        assert_eq!(fill(&mut queue, 4, 2 * JOB_SIZE), 2);
        assert_eq!((queue.len(), queue.cost), (58, 60 * JOB_SIZE));
        assert!(!queue.has_room(conn(5), 5 * JOB_SIZE) && queue.has_room(conn(5), 4 * JOB_SIZE));
        while step(&mut queue) {}
        assert_eq!((queue.len(), queue.cost, queue.lines.len()), (0, 0, 0));
    }

    #[test]
    fn a_connection_that_left_has_no_jobs() {
        let (mut queue, notes) = (Queue::new(1 << 20), Notes::default());
        for number in 0..10 {
            queue.push(notes.job(1, number, 0));
            queue.push(notes.job(2, number, 0));
        }
        let first = queue.next().expect("a job");
        queue.forget(conn(1));
        queue.forget(conn(2));
        queue.forget(conn(3));
        assert_eq!((queue.len(), queue.cost, queue.tally.left), (0, 0, 19));
        assert!(queue.next().is_none());
        queue.done(first.owner);
        assert!(queue.lines.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(u32, usize),
        Next,
        Done(prop::sample::Index),
        Forget(u32),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            6 => (0..5u32, 0..3 * JOB_SIZE).prop_map(|(owner, size)| Act::Push(owner, size)),
            4 => Just(Act::Next),
            4 => any::<prop::sample::Index>().prop_map(Act::Done),
            1 => (0..5u32).prop_map(Act::Forget),
        ];
        prop::collection::vec(act, 0..200)
    }

    proptest! {
        /// Whatever happens in whatever order: never over the bound, one worker a connection, in order, none lost.
        #[test]
        fn holds_its_promises(acts in acts()) {
            let (mut queue, notes) = (Queue::new(16 * JOB_SIZE), Notes::default());
            let (mut numbers, mut working) = (BTreeMap::<u32, u32>::new(), Vec::<Job>::new());
            let (mut pushed, mut seen) = (0, BTreeMap::<u32, u32>::new());
            for act in acts {
                match act {
                    Act::Push(owner, size) if queue.has_room(conn(owner), size) => {
                        let number = numbers.entry(owner).or_default();
                        queue.push(notes.job(owner, *number, size));
                        (*number, pushed) = (*number + 1, pushed + 1);
                    }
                    Act::Push(..) => {}
                    Act::Next => {
                        let idle = queue.lines.values().any(|line| !line.busy && !line.jobs.is_empty());
                        let next = queue.next();
                        prop_assert_eq!(next.is_some(), idle);
                        if let Some(job) = next {
                            prop_assert!(working.iter().all(|other| other.owner != job.owner));
                            working.push(job);
                        }
                    }
                    Act::Done(at) if !working.is_empty() => {
                        let job = working.swap_remove(at.index(working.len()));
                        (job.work)();
                        queue.done(job.owner);
                    }
                    Act::Done(_) => {}
                    Act::Forget(owner) => queue.forget(conn(owner)),
                }
                prop_assert!(queue.cost <= queue.cost_max);
            }
            let done = notes.taken();
            for (owner, number) in &done {
                let next = seen.entry(*owner).or_default();
                prop_assert!(number >= next);
                *next = number + 1;
            }
            let left = queue.tally.left as usize;
            prop_assert_eq!(pushed, done.len() + working.len() + queue.len() + left);
        }
    }
}
