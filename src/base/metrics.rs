//! F0 · What is counted, and the Prometheus text of it.
//!
//! Owns plain numbers: each reactor counts in its own [`Counters`] without sharing a cache line, and the service thread
//! asks for copies and adds them up. Names follow Centrifugo's where the meaning is the same.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// Durations, recorded in microseconds with two digits of precision, up to a minute.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

const LONGEST_US: u64 = 60_000_000;

impl Default for Latency {
    fn default() -> Latency {
        // The bounds are constants that the constructor accepts; the fallback grows by itself.
        Latency(Histogram::new_with_bounds(1, LONGEST_US, 2).unwrap_or_else(|_| Histogram::new(2).expect("two digits")))
    }
}

impl Latency {
    pub fn record_us(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    pub fn record_ms(&mut self, ms: u64) {
        self.record_us(ms.saturating_mul(1000));
    }

    pub fn add(&mut self, other: &Latency) {
        // Equal bounds: it cannot fail.
        let _ = self.0.add(&other.0);
    }
}

/// Error codes from 100 on that are shown whether or not there was such an error.
const CODES_IN_USE: usize = 13;

/// Why input waits, as it is labelled.
pub const WAITS: [&str; 5] = ["commands", "decoded", "replies", "signatures", "unanswered"];

/// What went beyond a rate limit: whose limits, what command, and whether it was let through to try them out.
pub type Limited = (&'static str, &'static str, bool);

macro_rules! counters {
    ($($field:ident: $name:literal $help:literal,)*) => {
        /// What one reactor counts, from its start.
        #[derive(Debug, Clone, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $field: u64,)*
            /// Error replies by code less 100.
            pub refused: [u64; 16],
            /// Why input of clients waited for the next turn, by `WAITS`.
            pub waits: [u64; 5],
            /// What went beyond rate limits.
            pub limited: BTreeMap<Limited, u64>,
            /// Disconnects by code.
            pub disconnects: BTreeMap<u16, u64>,
            /// Close codes sent for broken WebSocket framing.
            pub faults: BTreeMap<u16, u64>,
            /// HTTP statuses answered by the reactor itself.
            pub answers: BTreeMap<u16, u64>,
            /// Clients that showed no good credentials, by cause.
            pub rejected: BTreeMap<&'static str, u64>,
            /// From ping to pong; the resolution is a tick of the wheel.
            pub pong: Latency,
            /// From a message's arrival to its effects.
            pub command: Latency,
            /// Work of one loop turn, sleep not counted.
            pub turn: Latency,
        }

        impl Counters {
            pub fn add(&mut self, other: &Counters) {
                $(self.$field += other.$field;)*
                self.refused.iter_mut().zip(other.refused).for_each(|(a, b)| *a += b);
                self.waits.iter_mut().zip(other.waits).for_each(|(a, b)| *a += b);
                add_table(&mut self.limited, &other.limited);
                add_table(&mut self.rejected, &other.rejected);
                let tables = [
                    (&mut self.disconnects, &other.disconnects),
                    (&mut self.faults, &other.faults),
                    (&mut self.answers, &other.answers),
                ];
                for (mine, theirs) in tables {
                    add_table(mine, theirs);
                }
                self.pong.add(&other.pong);
                self.command.add(&other.command);
                self.turn.add(&other.turn);
            }

            /// All as Prometheus text.
            pub fn write(&self, page: &mut Page) {
                $(page.single($name, $help, "counter", self.$field);)*
                let codes = self.refused.iter().enumerate().filter(|(code, n)| *code < CODES_IN_USE || **n > 0);
                let codes = codes.map(|(code, n)| (code + 100, *n));
                page.labelled("gannet_client_num_reply_errors_total", "Error replies to commands, by error code.", "counter", "code", codes);
                page.labelled("gannet_client_input_waits_total", "Times that the rest of a client's input waited for the next turn because a budget was used up (commands, decoded, replies, signatures), or for replies that are owed (unanswered).", "counter", "reason", WAITS.into_iter().zip(self.waits));
                let limited = self.limited.iter().map(|((layer, command, dry_run), count)| {
                    (format!("layer=\"{layer}\",command=\"{command}\",dry_run=\"{dry_run}\""), *count)
                });
                page.series("gannet_rate_limit_client_over_limit_total", "Commands, or errors, beyond a limit of client.rate_limit.", "counter", limited);
                page.labelled("gannet_client_num_server_disconnects_total", "Clients closed by the server, by disconnect code.", "counter", "code", &self.disconnects);
                page.labelled("gannet_client_rejected_total", "Tokens and connect commands without one that were refused, by cause; log.level debug tells each.", "counter", "cause", &self.rejected);
                page.labelled("gannet_transport_protocol_errors_total", "Connections closed for broken WebSocket framing, by close code.", "counter", "code", &self.faults);
                page.labelled("gannet_node_handshake_refusals_total", "Requests refused by the reactor before an upgrade, by HTTP status.", "counter", "status", &self.answers);
                page.histogram("gannet_client_ping_pong_duration_seconds", "From a ping to its pong, to the next 0.1 s.", &self.pong);
                page.histogram("gannet_client_command_duration_seconds", "From a client's message to its effects, inside the reactor.", &self.command);
                page.histogram("gannet_reactor_turn_duration_seconds", "Work of one loop turn; a long tail delays everyone on that reactor.", &self.turn);
            }
        }
    };
}

/// Adds one table to the other.
fn add_table<K: Ord + Copy>(mine: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
    theirs.iter().for_each(|(key, count)| *mine.entry(*key).or_default() += count);
}

counters! {
    accepted: "gannet_transport_connections_accepted_total" "Sockets accepted.",
    closed: "gannet_transport_connections_closed_total" "Sockets closed or handed off.",
    handed_off: "gannet_transport_connections_handed_off_total" "Sockets handed to the service thread for plain HTTP.",
    upgrades: "gannet_client_connections_accepted_total" "Handshakes of clients completed, whatever the transport.",
    connects: "gannet_client_connects_total" "Connect commands that succeeded.",
    subscribes: "gannet_client_subscriptions_accepted_total" "Subscriptions begun.",
    unsubscribes_by_server: "gannet_client_num_server_unsubscribes_total" "Subscriptions ended by the server API.",
    publications_received: "gannet_node_publications_received_total" "Publications taken from clients.",
    deliveries: "gannet_node_publications_sent_total" "Publications delivered to subscribers.",
    messages_received: "gannet_transport_messages_received_total" "Messages received, by WebSocket or by a request.",
    bytes_received: "gannet_transport_messages_received_size_bytes_total" "Bytes read from client sockets.",
    messages_sent: "gannet_transport_messages_sent_total" "Frames queued to clients; one may hold several replies.",
    bytes_sent: "gannet_transport_messages_sent_size_bytes_total" "Bytes written to client sockets.",
    messages_compressed: "gannet_transport_messages_compressed_total" "Messages compressed, each once however many clients it went to.",
    messages_incompressible: "gannet_transport_messages_incompressible_total" "Messages that compression would not have made smaller, and that went as they were: raise websocket.compression_min_size if these are many.",
    bytes_uncompressed: "gannet_transport_messages_compressed_before_size_bytes_total" "Bytes of the messages compressed, before.",
    bytes_compressed: "gannet_transport_messages_compressed_after_size_bytes_total" "Bytes of the messages compressed, after; by the bytes before, it is what is left of a message.",
    reads: "gannet_reactor_reads_total" "Read calls on client sockets.",
    writes: "gannet_reactor_writes_total" "Write calls on client sockets.",
    writes_blocked: "gannet_reactor_writes_blocked_total" "Write calls that a full socket cut short.",
    turns: "gannet_reactor_turns_total" "Loop turns.",
    publications_dropped: "gannet_node_publications_dropped_total" "Publications dropped because a reactor's mailbox was full: raise reactor.mailbox_size or add reactors.",
    publications_filtered: "gannet_node_tags_filter_dropped_publications_total" "Publications that subscribers did not get because their tags filter left them out.",
    commands_astray: "gannet_client_emulation_unknown_session_total" "Requests to the emulation endpoint whose session is gone, or never was.",
    gaps: "gannet_node_position_gaps_total" "Gaps in a channel's stream on their way to a reactor, of which its positioned subscribers were told (2500, 3010): see publications_dropped.",
    streams_evicted: "gannet_node_history_streams_evicted_total" "Streams without subscribers or publications that were forgotten at channel.history_memory_limit: clients that come back to them do not recover.",
    subscriptions_lost: "gannet_node_server_subscriptions_lost_total" "Subscriptions of the server's making that did not begin because an engine was away or too much was under way.",
    engine_reads: "gannet_engine_heals_total" "Reads of a channel's stream after something may have been lost on the way.",
    engine_read_publications: "gannet_engine_healed_publications_total" "Publications that those reads brought.",
    engine_gaps: "gannet_engine_position_gaps_total" "Gaps that the engine could not fill, of which positioned subscribers were told (2500, 3010).",
    engine_held_dropped: "gannet_engine_held_publications_dropped_total" "Publications that found no room to wait for those before them (reactor.held_publication_limit, held_publication_size); they were read again.",
    engine_away: "gannet_engine_away_total" "Questions and subscriptions answered with error 100 because the engine was away.",
    engine_inflight_refused: "gannet_engine_inflight_limit_total" "Questions refused by reactor.engine_inflight_limit.",
    archive_unarchived: "gannet_archive_unarchived_total" "Publications that were delivered and not archived, because the archive was away or too much waited for it (durable.queue_size).",
    archive_refused: "gannet_archive_refused_total" "Requests refused by durable.queue_size, durable.opening_limit or durable.read_limit, or because the node ends.",
    archive_failed: "gannet_archive_failed_total" "Publications with history_durability sync that did not come to the disk: error 100.",
    archive_torn: "gannet_archive_torn_total" "Streams that began another epoch, for something of them may be missing.",
    engine_presence_renewals: "gannet_engine_presence_renewals_total" "Clients present that the engine was told of again.",
    engine_position_checks: "gannet_engine_position_checks_total" "Channels that were read because nothing was heard of them for client.channel_position_check_delay.",
    histories_evicted: "gannet_node_histories_evicted_total" "Streams with subscribers whose publications were forgotten at channel.history_memory_limit: their subscribers miss nothing, clients that come back do not recover.",
    history_refused: "gannet_node_history_memory_limit_total" "Publications refused by channel.history_memory_limit: nothing was left to forget.",
    idempotency_keys_evicted: "gannet_node_idempotency_keys_evicted_total" "Idempotency keys forgotten before their five minutes, by channel.idempotency_cache_size or channel.history_memory_limit.",
    inbox_proofs: "gannet_inbox_proofs_total" "Proofs of arrival that moved a cursor.",
    inbox_caught_up: "gannet_inbox_caught_up_total" "Clients without a position that were sent what had not arrived.",
    inbox_sent: "gannet_inbox_publications_sent_total" "Publications that they were sent.",
    inbox_lost: "gannet_inbox_unrecovered_total" "Clients without a position that were told that more is missing than history or inbox.size has.",
    inbox_expired: "gannet_inbox_cursors_expired_total" "Cursors forgotten after inbox.ttl.",
    inbox_undelivered: "gannet_inbox_undelivered_publications_total" "Publications, counted for each user, that had not arrived after inbox.undelivered_after.",
    inbox_refused_channel: "gannet_inbox_cursor_limit_total" "Users refused by inbox.cursor_limit (error 106).",
    inbox_refused_user: "gannet_inbox_user_limit_total" "Subscriptions refused by channel.inbox_user_limit (error 106).",
    inbox_refused_memory: "gannet_inbox_memory_limit_total" "Subscriptions refused by channel.inbox_memory_limit (error 111).",
    recoverable: "gannet_client_positioned_subscriptions_total" "Subscriptions begun that know their position.",
    tokens_remembered: "gannet_client_tokens_remembered_total" "Tokens that were found good before and cost no signature check.",
    tokens_verified: "gannet_client_tokens_verified_total" "Tokens whose signature was checked.",
    tokens_forged: "gannet_client_tokens_forged_total" "Of those, tokens whose signature did not fit: whoever sends them has no key.",
    tokens_refused_again: "gannet_client_bad_tokens_remembered_total" "Tokens that were found bad before and cost no signature check.",
    limit_bad_tokens: "gannet_client_bad_token_limit_total" "Connections ended by client.bad_token_limit (3500).",
    limit_connections: "gannet_node_client_connection_limit_total" "Handshakes refused by client.connection_limit or the file descriptor limit.",
    limit_rate: "gannet_node_client_connection_rate_limit_total" "Handshakes refused by client.connection_rate_limit.",
    limit_per_ip: "gannet_node_client_connection_per_ip_limit_total" "Connections refused by client.connection_limit_per_ip.",
    limit_memory: "gannet_node_memory_limit_total" "Handshakes refused while memory is over overload.memory_limit.",
    limit_sockets: "gannet_node_socket_limit_total" "Sockets closed unread because the file descriptors are used up: raise LimitNOFILE.",
    handed_back: "gannet_reactor_sockets_handed_back_total" "Kept connections that came back from plain HTTP with a client's request.",
    limit_service: "gannet_node_service_connection_limit_total" "Plain HTTP connections refused by http_server.service_connection_limit.",
    limit_accept: "gannet_node_accept_rate_limit_total" "Sockets closed unread by overload.accept_rate_limit.",
    descriptors_exhausted: "gannet_node_descriptors_exhausted_total" "Sockets closed because the process had no file descriptor left at all: raise LimitNOFILE.",
    origins_refused: "gannet_client_origins_refused_total" "Handshakes refused by client.allowed_origins.",
    handshake_timeouts: "gannet_transport_handshake_timeouts_total" "Sockets closed without a whole request head in time.",
    write_timeouts: "gannet_transport_write_timeouts_total" "Clients closed because their socket took no byte for websocket.write_timeout.",
    message_timeouts: "gannet_transport_message_timeouts_total" "Connections closed because a message that they began did not end within websocket.message_timeout.",
    lines_accepted: "gannet_tcp_line_connections_accepted_total" "Sockets accepted at tcp_line.port.",
    lines_too_long: "gannet_tcp_line_message_size_limit_total" "Clients closed by tcp_line.message_size_limit (3501).",
    limit_held: "gannet_transport_held_input_limit_total" "Connections closed because unfinished messages and waiting input were over reactor.held_input_size.",
    limit_output: "gannet_transport_waiting_output_limit_total" "Connections closed because memory was over overload.memory_limit and most waited for them.",
    limit_lists: "gannet_client_presence_queue_limit_total" "Presence commands refused by reactor.presence_queue_limit.",
    tls_handshakes: "gannet_tls_handshakes_total" "TLS handshakes of clients that were completed.",
    tls_resumed: "gannet_tls_handshakes_resumed_total" "Of those, handshakes that a ticket made short.",
    tls_old: "gannet_tls_handshakes_tls12_total" "Of those, handshakes of TLS 1.2.",
    tls_failed: "gannet_tls_handshake_failures_total" "TLS handshakes that failed; log.level debug tells why.",
    tls_timeouts: "gannet_tls_handshake_timeouts_total" "TLS handshakes that were not completed within http_server.handshake_timeout.",
    tls_refused: "gannet_tls_handshakes_refused_total" "Sockets closed in their TLS handshake because of workers.queue_size, tls.handshake_limit or tls.handshake_memory_limit.",
    tls_cut: "gannet_tls_connections_cut_total" "Clients whose stream ended without TLS's word that it is the end.",
    resets: "gannet_transport_connections_lost_total" "Sockets that ended without a close frame.",
}

/// Seconds that histograms are cut at.
const BUCKETS_US: [u64; 16] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    10_000_000,
];

/// A page in the Prometheus text format, version 0.0.4.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    pub fn into_text(self) -> String {
        self.text
    }

    /// The series without labels, with their values.
    pub fn singles(&self) -> impl Iterator<Item = (&str, f64)> {
        let series = self.text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
        let plain = series.filter(|(name, _)| !name.contains('{'));
        plain.filter_map(|(name, value)| Some((name, value.parse().ok()?)))
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn single(&mut self, name: &str, help: &str, kind: &str, value: impl Display) {
        self.head(name, help, kind);
        let _ = writeln!(self.text, "{name} {value}");
    }

    /// One series for each label value; none at all is fine.
    pub fn labelled<K: Display, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        label: &str,
        series: impl IntoIterator<Item = (K, V)>,
    ) {
        self.series(name, help, kind, series.into_iter().map(|(key, value)| (format!("{label}=\"{key}\""), value)));
    }

    /// The same, with the labels of each series written out.
    pub fn series<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        series: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, help, kind);
        for (labels, value) in series {
            let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
        }
    }

    pub fn histogram(&mut self, name: &str, help: &str, latency: &Latency) {
        self.head(name, help, "histogram");
        self.buckets(name, "", latency);
    }

    /// One histogram for each label value.
    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        series: impl IntoIterator<Item = (&'a String, &'a Latency)>,
    ) {
        self.head(name, help, "histogram");
        for (key, latency) in series {
            self.buckets(name, &format!("{label}=\"{key}\","), latency);
        }
    }

    /// One histogram for each set of labels, which are written out.
    pub fn histogram_series<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (&'a String, &'a Latency)>,
    ) {
        self.head(name, help, "histogram");
        for (labels, latency) in series {
            self.buckets(name, &format!("{labels},"), latency);
        }
    }

    /// `label`: empty, or a label with a comma behind it.
    fn buckets(&mut self, name: &str, label: &str, latency: &Latency) {
        let histogram = &latency.0;
        for us in BUCKETS_US {
            let count = histogram.count_between(0, us);
            let _ = writeln!(self.text, "{name}_bucket{{{label}le=\"{}\"}} {count}", us as f64 / 1e6);
        }
        let _ = writeln!(self.text, "{name}_bucket{{{label}le=\"+Inf\"}} {}", histogram.len());
        let label = label.trim_end_matches(',');
        let _ = writeln!(self.text, "{name}_sum{{{label}}} {}", histogram.mean() * histogram.len() as f64 / 1e6);
        let _ = writeln!(self.text, "{name}_count{{{label}}} {}", histogram.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_and_prints() {
        let mut a = Counters { accepted: 2, ..Counters::default() };
        a.refused[3] = 1;
        a.disconnects.insert(3008, 1);
        a.limited.insert(("user_command", "publish", false), 1);
        a.turn.record_us(300);
        let mut b = a.clone();
        b.add(&a);
        let mut page = Page::default();
        b.write(&mut page);
        let text = page.into_text();
        for line in [
            "gannet_transport_connections_accepted_total 4",
            "gannet_client_num_reply_errors_total{code=\"103\"} 2",
            "gannet_client_num_server_disconnects_total{code=\"3008\"} 2",
            "gannet_rate_limit_client_over_limit_total{layer=\"user_command\",command=\"publish\",dry_run=\"false\"} 2",
            "gannet_reactor_turn_duration_seconds_bucket{le=\"0.0005\"} 2",
            "gannet_reactor_turn_duration_seconds_bucket{le=\"+Inf\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
