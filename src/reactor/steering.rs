//! F10 · Which reactor gets a new connection: any, by the kernel's hash, or the one on the CPU of its first packet.
//!
//! Owns the program that the kernel asks about each new connection, and the CPU of each reactor. Never knows what an
//! address is listened on for.
//!
//! The program answers with a listener's number, and numbers are the order of `listen`. When a listener closes, the
//! kernel gives its number to the last one, so in a drain a connection may come to a reactor on another CPU, for the
//! moment until that one closes its own: it is served or refused there as anywhere. A number that nobody has any more
//! means the hash.

use crate::config::HttpServer;
use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::net::TcpListener;

/// No listener's number: the kernel goes by its hash.
const BY_HASH: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// Reactors run where the scheduler puts them.
    Hash,
    /// Each reactor stays on its CPU: one for each, in their order.
    Cpu(Vec<usize>),
}

impl Steering {
    /// What the options ask for, for so many reactors on this host; or why it cannot be had.
    pub fn new(options: &HttpServer, reactors: usize) -> Result<Steering, String> {
        if options.steering != "cpu" {
            return Ok(Steering::Hash);
        }
        let allowed = sched_getaffinity(None).map_err(|error| format!("cannot see the CPUs to use: {error}"))?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        Steering::over(&allowed, reactors)
    }

    /// The lowest of the CPUs that the process may use. What arrives at the others goes by the hash.
    fn over(allowed: &[usize], reactors: usize) -> Result<Steering, String> {
        let cpus = allowed.get(..reactors).ok_or_else(|| {
            format!(
                "http_server.steering = cpu wants a CPU for each reactor: the process may use {}, for {reactors} \
                 reactors; set reactors to that or less",
                allowed.len()
            )
        })?;
        Ok(Steering::Cpu(cpus.to_vec()))
    }

    /// The CPU of each reactor, if they have one.
    pub fn cpus(&self) -> Option<&[usize]> {
        match self {
            Steering::Hash => None,
            Steering::Cpu(cpus) => Some(cpus),
        }
    }

    /// Tells the kernel. `listeners` are all of this process on their address, in the order of `listen`; `shared` =
    /// there may be another process's, which listened before.
    pub fn attach(&self, listeners: &[TcpListener], shared: bool) -> io::Result<()> {
        // There is one program for all listeners of the address, whichever it is attached to.
        let Some(any) = listeners.first() else { return Ok(()) };
        match self {
            Steering::Cpu(cpus) => load(any, program(cpus)),
            Steering::Hash if shared => {
                // The other process may steer by CPU: its program would go on without it. A kernel that refuses this
                // one has none.
                let _ = load(any, program(&[]));
                Ok(())
            }
            Steering::Hash => Ok(()),
        }
    }

    /// Calls `start`, which starts the thread of a reactor, such that the thread stays on the reactor's CPU: a thread
    /// has the CPUs of the one that starts it. What it allocates before is near that CPU, too.
    pub fn start_on<T>(&self, reactor: usize, start: impl FnOnce() -> T) -> io::Result<T> {
        let Some(cpu) = self.cpus().and_then(|cpus| cpus.get(reactor)) else { return Ok(start()) };
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, &only(*cpu))?;
        let started = start();
        sched_setaffinity(None, &before)?;
        Ok(started)
    }
}

fn load(listener: &TcpListener, mut steps: Vec<sock_filter>) -> io::Result<()> {
    let program = sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    Ok(setsockopt(listener, AttachReusePortCbpf, &program)?)
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// In the kernel's first bytecode: which CPU is this? If it is the first of `cpus`: 0; the second: 1; and so on.
/// CPUs that are in no order need a comparison each, and are compared once in the life of a connection.
fn program(cpus: &[usize]) -> Vec<sock_filter> {
    // When a comparison fails, its answer is passed over.
    let step = |code: u32, jf: u8, k: u32| sock_filter { code: code as u16, jt: 0, jf, k };
    let (this_cpu, answer) = ((libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32, libc::BPF_RET | libc::BPF_K);
    let mut steps = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, this_cpu)];
    for (listener, cpu) in cpus.iter().enumerate() {
        steps.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, *cpu as u32));
        steps.push(step(answer, 0, listener as u32));
    }
    steps.push(step(answer, 0, BY_HASH));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::reactor::listen;
    use std::net::{SocketAddr, TcpStream};
    use std::time::{Duration, Instant};

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).expect("CPUs");
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    }

    /// What the kernel gets from the program on this CPU. Codes as in linux/bpf_common.h and linux/filter.h.
    fn answer(steps: &[sock_filter], cpu: u32) -> u32 {
        let (mut at, mut accumulator) = (0, None);
        loop {
            let step = steps[at];
            at += 1;
            match (step.code, accumulator) {
                (0x20, _) => {
                    assert_eq!(step.k, 0xffff_f000 + 36, "the CPU's number, of the ancillary data");
                    accumulator = Some(cpu);
                }
                (0x15, Some(value)) => at += usize::from(if value == step.k { step.jt } else { step.jf }),
                (0x06, _) => return step.k,
                (code, _) => panic!("{code:#x} at {at} of {}", steps.len()),
            }
        }
    }

    #[test]
    fn the_program_answers_with_the_listener_of_the_cpu() {
        let many: Vec<usize> = (0..1024).rev().collect();
        for cpus in [&[][..], &[0], &[0, 1], &[0, 1, 2, 3], &[7], &[2, 3, 9, 64], &[9, 2], &many] {
            let steps = program(cpus);
            assert!(steps.len() <= 4096, "more than the kernel takes");
            for cpu in 0..1100 {
                let expected = cpus.iter().position(|own| *own == cpu).map_or(BY_HASH, |at| at as u32);
                assert_eq!(answer(&steps, cpu as u32), expected, "CPU {cpu} of {cpus:?}");
            }
        }
    }

    #[test]
    fn reactors_take_the_lowest_cpus_and_want_one_each() {
        assert_eq!(Steering::over(&[2, 3, 9], 2), Ok(Steering::Cpu(vec![2, 3])));
        assert_eq!(Steering::over(&[2, 3, 9], 3), Ok(Steering::Cpu(vec![2, 3, 9])));
        let error = Steering::over(&[2, 3, 9], 4).expect_err("too many");
        assert!(error.contains("may use 3, for 4 reactors"), "{error}");
        let mut options = Config::default().http_server;
        assert_eq!(Steering::new(&options, 5000), Ok(Steering::Hash));
        options.steering = "cpu".into();
        assert_eq!(Steering::new(&options, 1), Ok(Steering::Cpu(vec![allowed()[0]])));
    }

    #[test]
    fn a_thread_stays_on_its_reactor_s_cpu_and_its_starter_does_not() {
        let cpus = allowed();
        let steering = Steering::Cpu(cpus.clone());
        for (reactor, cpu) in cpus.iter().enumerate() {
            let thread = steering.start_on(reactor, || std::thread::spawn(allowed)).expect("start");
            assert_eq!(thread.join().expect("join"), [*cpu]);
            assert_eq!(allowed(), cpus);
        }
        let thread = Steering::Hash.start_on(0, || std::thread::spawn(allowed)).expect("start");
        assert_eq!(thread.join().expect("join"), cpus);
    }

    /// Connects from a CPU; which of the listeners takes it.
    fn taken_by(listeners: &[TcpListener], address: SocketAddr, cpu: usize) -> usize {
        let connect = move || {
            sched_setaffinity(None, &only(cpu)).expect("a CPU");
            TcpStream::connect(address).expect("connect")
        };
        let _peer = std::thread::spawn(connect).join().expect("join");
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(at) = listeners.iter().position(|listener| listener.accept().is_ok()) {
                return at;
            }
            std::thread::yield_now();
        }
        panic!("nobody took a connection from CPU {cpu}");
    }

    #[test]
    fn a_connection_comes_to_the_listener_of_its_cpu_and_to_another_when_that_is_gone() {
        let options = Config::default().http_server;
        let cpus = allowed();
        // The other way round, so that no number is by chance the CPU's.
        let reversed: Vec<usize> = cpus.iter().rev().copied().collect();
        let address = "127.0.0.1:0".parse().expect("address");
        let mut listeners = listen(&options, address, cpus.len(), false).expect("listen");
        let address = listeners[0].local_addr().expect("address");
        Steering::Cpu(reversed.clone()).attach(&listeners, false).expect("attach");
        for round in 0..20 {
            for (number, cpu) in reversed.iter().enumerate() {
                assert_eq!(taken_by(&listeners, address, *cpu), number, "from CPU {cpu}, round {round}");
            }
        }
        while listeners.len() > 1 {
            listeners.remove(0);
            cpus.iter().for_each(|cpu| assert!(taken_by(&listeners, address, *cpu) < listeners.len()));
        }
    }

    #[test]
    fn who_shares_the_port_by_hash_gets_its_part_and_the_rest() {
        let options = Config::default().http_server;
        let cpu = allowed()[0];
        let mut all = listen(&options, "127.0.0.1:0".parse().expect("address"), 1, false).expect("listen");
        let address = all[0].local_addr().expect("address");
        Steering::Cpu(vec![cpu]).attach(&all, false).expect("attach");
        let later = listen(&options, address, 1, true).expect("listen");
        all.extend(later);
        (0..20).for_each(|_| assert_eq!(taken_by(&all, address, cpu), 0, "the one that steers has them all"));
        Steering::Hash.attach(&all[1..], true).expect("attach");
        let deadline = Instant::now() + Duration::from_secs(20);
        while taken_by(&all, address, cpu) == 0 {
            assert!(Instant::now() < deadline, "it is still steered");
        }
        all.remove(0);
        assert_eq!(taken_by(&all, address, cpu), 0);
    }
}
