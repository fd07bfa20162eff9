//! F8 · The options of a turn in its own units.

use super::Budget;
use crate::base::wheel::{Tick, ticks};
use crate::config::Config;

/// What a compressed message may inflate to, in message size limits.
const INFLATED_FACTOR: usize = 10;

/// What bounds each connection, and each turn.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections accepted in one turn.
    pub accepts: usize,
    pub handshake: Tick,
    pub write: Tick,
    pub close: Tick,
    /// A message that began must end within this.
    pub message: Tick,
    pub head_bytes: usize,
    pub message_bytes: usize,
    pub inflated_bytes: usize,
    pub uni_message_bytes: usize,
    pub line_bytes: usize,
    pub echo_bytes: usize,
    /// What may wait for one peer.
    pub outbox_bytes: usize,
    /// Unfinished messages and waiting input of all connections.
    pub held_bytes: usize,
    /// What may wait for all peers however much memory is in use.
    pub output_bytes: usize,
    pub budget: Budget,
    /// Replies owed to one client.
    pub unanswered: usize,
    pub fanout_slice: usize,
    pub drain_spread: Tick,
    /// Nanoseconds that what clients get may wait.
    pub write_delay_ns: u64,
    /// Compressed messages are taken.
    pub inflates: bool,
}

/// The part of overload.memory_limit that reactors may hold together in unfinished messages and waiting input, and the
/// part that may wait for peers whatever is in use. Buffers grow to twice what they hold at most, so a flood of those
/// passes the limit by a tenth at most.
const HELD_PART: usize = 20;

impl Bounds {
    /// The same for one of so many reactors, which share the memory of the node.
    pub fn of_each(config: &Config, reactors: usize) -> Bounds {
        let mut bounds = Bounds::new(config);
        if config.overload.memory_limit > 0 {
            let part = config.overload.memory_limit / HELD_PART / reactors.max(1);
            (bounds.held_bytes, bounds.output_bytes) = (bounds.held_bytes.min(part), part);
        }
        bounds
    }

    pub fn new(config: &Config) -> Bounds {
        let mut outbox_bytes = config.client.queue_max_size;
        if config.echo.enabled {
            outbox_bytes = outbox_bytes.max(2 * config.echo.message_size_limit);
        }
        let message_bytes = config.websocket.message_size_limit;
        Bounds {
            accepts: config.reactor.accept_budget,
            handshake: ticks(config.http_server.handshake_timeout),
            write: ticks(config.websocket.write_timeout),
            close: ticks(config.websocket.close_timeout),
            message: ticks(config.websocket.message_timeout),
            head_bytes: config.http_server.header_size_limit,
            message_bytes,
            inflated_bytes: message_bytes.saturating_mul(INFLATED_FACTOR),
            uni_message_bytes: config.uni_websocket.message_size_limit,
            line_bytes: config.tcp_line.message_size_limit,
            echo_bytes: config.echo.message_size_limit,
            outbox_bytes,
            held_bytes: config.reactor.held_input_size,
            output_bytes: usize::MAX,
            budget: Budget::new(config),
            unanswered: config.client.unanswered_limit,
            fanout_slice: config.reactor.fanout_slice,
            drain_spread: ticks(config.shutdown.spread),
            write_delay_ns: config.client.write_delay.as_nanos() as u64,
            inflates: config.websocket.compression,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_a_part_of_the_memory_that_there_may_be() {
        let mut config = Config::default();
        let held = |config: &Config, reactors| Bounds::of_each(config, reactors).held_bytes;
        assert_eq!(held(&config, 4), config.reactor.held_input_size);
        config.overload.memory_limit = 80 << 20;
        assert_eq!([held(&config, 1), held(&config, 4)], [4 << 20, 1 << 20]);
        assert_eq!(Bounds::of_each(&config, 4).output_bytes, 1 << 20);
        config.overload.memory_limit = 80 << 30;
        assert_eq!(held(&config, 4), config.reactor.held_input_size);
        assert_eq!(Bounds::of_each(&config, 4).output_bytes, 1 << 30);
    }
}
