//! F10 · What the service thread looks at by itself: memory, processor time, and limits that bite.

use super::node::Node;
use super::sums;
use crate::admission::Admission;
use crate::base::metrics::Counters;
use crate::session::Settings;
use crate::workers::Pool;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch::Receiver;

/// Memory is looked at this often while there is a limit.
const MEMORY_INTERVAL: Duration = Duration::from_millis(500);

/// Processor time this process has used, in seconds.
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// How many file descriptors this process may have; `None` if there is no limit.
pub fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Seconds since 1970 when this process was `ago` younger.
pub fn started(ago: Duration) -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago).as_secs_f64()
}

/// What is said of memory: that it is over its limit and that it is below again, neither more often than sums are.
#[derive(Default)]
struct Said {
    over: bool,
    at: Option<Instant>,
}

impl Said {
    /// Is a line due, now that memory is `over` its limit, or not?
    fn is_due(&mut self, over: bool, now: Instant) -> bool {
        let due = over != self.over && self.at.is_none_or(|at| now.duration_since(at) >= sums::INTERVAL);
        if due {
            *self = Said { over, at: Some(now) };
        }
        due
    }
}

/// Sees to it that memory is looked at while no handshakes come, too, and says when it passes `overload.memory_limit`.
pub async fn memory(mut settings: Receiver<Arc<Settings>>, admission: Arc<Admission>) {
    let mut said = Said::default();
    loop {
        let limit = settings.borrow_and_update().config.overload.memory_limit;
        if limit == 0 {
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        }
        admission.look_at_memory();
        let over = admission.is_over_memory();
        if said.is_due(over, Instant::now()) {
            let words = if over {
                "over overload.memory_limit: new clients get 503"
            } else {
                "below overload.memory_limit again"
            };
            tracing::warn!(limit, "memory is {words}");
        }
        tokio::time::sleep(MEMORY_INTERVAL).await;
    }
}

/// Whether the drain has begun is looked at this often.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// Becomes true when the ports close.
pub fn draining(admission: Arc<Admission>) -> tokio::sync::watch::Receiver<bool> {
    let (tell, told) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while !admission.is_draining() {
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
        // Nobody who listens is nobody to tell.
        let _ = tell.send(true);
    });
    told
}

/// Counters worth a line when they grow, and what to do about each.
type Watched = (fn(&Counters) -> u64, &'static str);

const WATCHED: [Watched; 16] = [
    (
        |c| c.limit_connections,
        "clients refused at the connection limit: raise client.connection_limit or LimitNOFILE, or add nodes",
    ),
    (
        |c| c.limit_rate,
        "handshakes refused by client.connection_rate_limit: expected in a reconnect storm; raise it if this node copes",
    ),
    (|c| c.limit_per_ip, "connections refused by client.connection_limit_per_ip: a proxy in front needs it off"),
    (|c| c.limit_memory, "handshakes refused for memory: raise overload.memory_limit or add nodes"),
    (
        |c| c.limit_output,
        "clients that did not read closed (3008) while memory was over its limit: raise overload.memory_limit or lower client.queue_max_size",
    ),
    (|c| c.limit_accept, "sockets closed by overload.accept_rate_limit"),
    (|c| c.limit_sockets, "sockets closed for want of file descriptors: raise LimitNOFILE"),
    (|c| c.limit_service, "HTTP connections refused by http_server.service_connection_limit"),
    (|c| c.descriptors_exhausted, "accepts found no file descriptor: raise LimitNOFILE"),
    (|c| c.origins_refused, "browsers refused by client.allowed_origins: add the origin if the page is yours"),
    (
        |c| c.streams_evicted,
        "streams forgotten at channel.history_memory_limit, unused for the longest: raise it if these were wanted",
    ),
    (
        |c| c.histories_evicted,
        "histories of channels in use forgotten at channel.history_memory_limit: raise it, or lower history_size",
    ),
    (|c| c.history_refused, "publications refused at channel.history_memory_limit: raise it, or lower history_size"),
    (
        |c| c.idempotency_keys_evicted,
        "idempotency keys forgotten early: raise channel.idempotency_cache_size or channel.history_memory_limit",
    ),
    (
        |c| c.limit_bad_tokens,
        "connections ended by client.bad_token_limit: forged tokens, or a backend that signs with another key",
    ),
    (|c| c.publications_dropped, "publications dropped at a full mailbox: raise reactor.mailbox_size or add reactors"),
];

/// One line for each limit that bit since the last look: never one for each refusal.
pub async fn refusals(node: Arc<Node>, workers: Arc<Pool>) {
    let (mut before, mut jobs_before) = (Counters::default(), 0);
    loop {
        tokio::time::sleep(sums::INTERVAL).await;
        let Ok(stats) = node.stats().await else {
            tracing::error!("a reactor has not answered for 5 s: see gannet_reactor_turn_duration_seconds");
            continue;
        };
        let mut now = Counters::default();
        stats.iter().for_each(|reactor| now.add(&reactor.counters));
        for (count, advice) in WATCHED {
            let grown = count(&now).saturating_sub(count(&before));
            if grown > 0 {
                tracing::warn!(count = grown, "{advice}");
            }
        }
        for (cause, count) in &now.rejected {
            let count = count - before.rejected.get(cause).unwrap_or(&0);
            if count > 0 {
                tracing::info!(cause, count, "credentials of clients refused; log.level debug tells whose");
            }
        }
        before = now;
        let jobs = workers.refused();
        if jobs > jobs_before {
            let advice = "tokens not checked, error 111: workers.queue_size is used up; more workers.threads, or fewer forged tokens";
            tracing::warn!(count = jobs - jobs_before, "{advice}");
        }
        jobs_before = jobs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_goes_up_and_down_writes_no_more_than_a_sum() {
        let (mut said, start) = (Said::default(), Instant::now());
        let mut due = |over, seconds| said.is_due(over, start + Duration::from_secs(seconds));
        assert!(!due(false, 0) && due(true, 1) && !due(true, 2));
        assert!((2..11).all(|second| !due(second % 2 == 0, second)));
        assert!(!due(true, 11) && due(false, 12) && !due(false, 40) && due(true, 41));
    }
}
