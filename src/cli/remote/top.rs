//! F11 · `gannet top`: nodes and channels of a running server, looked at again and again.
//!
//! Owns the rates, which are what counters grew by from one look to the next. Asks by the server API alone, so it costs
//! a server nothing while nobody looks.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::api::ServerApi;
use super::reports::{NodeFacts, by_clients, grouped, nodes, print, row, size, span, table};
use super::{Ended, Remote};

/// To the top left, and everything from there on is gone.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// What is shown as a rate: in a row's order, its counter.
const RATES: [&str; 6] = [
    "gannet_transport_messages_received_total",
    "gannet_transport_messages_sent_total",
    "gannet_transport_messages_sent_size_bytes_total",
    "gannet_client_connects_total",
    "gannet_node_publications_received_total",
    "gannet_transport_write_timeouts_total",
];

/// One look. As JSON it is what `--json` prints.
#[derive(Serialize)]
struct Look {
    nodes: Vec<NodeLine>,
    channels: Vec<ChannelLine>,
}

#[derive(Serialize)]
struct NodeLine {
    name: String,
    uptime_seconds: u64,
    clients: u64,
    users: u64,
    subscriptions: u64,
    channels: u64,
    memory_bytes: u64,
    messages_in_per_second: f64,
    messages_out_per_second: f64,
    bytes_out_per_second: f64,
    connects_per_second: f64,
    publications_per_second: f64,
    write_timeouts_per_second: f64,
}

#[derive(Serialize)]
struct ChannelLine {
    name: String,
    clients: u64,
}

/// What counters of each node were, and when: by its id.
type Before = HashMap<String, (Instant, [f64; RATES.len()])>;

pub fn show(remote: &Remote<'_>, out: &mut dyn Write) -> Ended {
    let api = ServerApi::of(remote)?;
    let interval = remote.text("interval").unwrap_or_default();
    let interval = humantime::parse_duration(interval)
        .map_err(|_| format!("--interval: expected a duration with its unit (2s, 500ms); got {interval:?}"))?;
    let mut left = remote.number("count");
    let clears = std::io::stdout().is_terminal() && left != Some(1) && !remote.is_set("json");
    let most = remote.number("channels").unwrap_or(0) as usize;
    let mut before = Before::new();
    while left != Some(0) {
        let look = look(&api, most, &mut before)?;
        let text = match remote.is_set("json") {
            true => serde_json::to_string(&look).map_err(|error| error.to_string())? + "\n",
            false => format!("{}{}", if clears { CLEAR } else { "" }, text(&look)),
        };
        print(out, &text)?;
        left = left.map(|left| left - 1);
        if left != Some(0) {
            std::thread::sleep(interval.max(Duration::from_millis(100)));
        }
    }
    Ok(())
}

fn look(api: &ServerApi, most: usize, before: &mut Before) -> Result<Look, String> {
    let unreadable = |error: serde_json::Error| format!("the answer cannot be read: {error}");
    let found = nodes(&api.call("info", &json!({}))?).map_err(unreadable)?;
    let now = Instant::now();
    let nodes = found.into_iter().map(|node| line(node, now, before)).collect();
    let channels = match most {
        0 => Vec::new(),
        most => {
            let all = by_clients(&api.call("channels", &json!({}))?).map_err(unreadable)?;
            all.into_iter().take(most).map(|(name, clients)| ChannelLine { name, clients }).collect()
        }
    };
    Ok(Look { nodes, channels })
}

fn line(node: NodeFacts, now: Instant, before: &mut Before) -> NodeLine {
    let counts = RATES.map(|name| node.metrics.items.get(name).copied().unwrap_or(0.0));
    let [messages_in, messages_out, bytes_out, connects, publications, write_timeouts] =
        match before.insert(node.uid.clone(), (now, counts)) {
            Some((then, earlier)) => rates(now.duration_since(then).as_secs_f64(), earlier, counts),
            // The first look: since the start.
            None => rates(node.metrics.interval, [0.0; RATES.len()], counts),
        };
    NodeLine {
        name: node.name,
        uptime_seconds: node.uptime,
        clients: node.num_clients,
        users: node.num_users,
        subscriptions: node.num_subs,
        channels: node.num_channels,
        memory_bytes: node.process.rss,
        messages_in_per_second: messages_in,
        messages_out_per_second: messages_out,
        bytes_out_per_second: bytes_out,
        connects_per_second: connects,
        publications_per_second: publications,
        write_timeouts_per_second: write_timeouts,
    }
}

fn rates<const N: usize>(seconds: f64, earlier: [f64; N], now: [f64; N]) -> [f64; N] {
    std::array::from_fn(|at| if seconds > 0.0 { (now[at] - earlier[at]).max(0.0) / seconds } else { 0.0 })
}

fn text(look: &Look) -> String {
    let head = ["NODE", "UP", "CLIENTS", "USERS", "SUBS", "CHANNELS", "IN/s", "OUT/s", "BYTES/s", "NEW/s", "MEMORY"];
    let mut rows = vec![row(head)];
    rows.extend(look.nodes.iter().map(|node| {
        let rate = |rate: f64| grouped(rate.round() as u64);
        let counts = [node.clients, node.users, node.subscriptions, node.channels].map(grouped);
        let rates = [rate(node.messages_in_per_second), rate(node.messages_out_per_second)];
        let rest = [size(node.bytes_out_per_second), rate(node.connects_per_second), size(node.memory_bytes as f64)];
        let first = vec![node.name.clone(), span(node.uptime_seconds)];
        first.into_iter().chain(counts).chain(rates).chain(rest).collect()
    }));
    let mut text = table(&rows);
    if !look.channels.is_empty() {
        let mut rows = vec![row(["CHANNEL", "CLIENTS"])];
        rows.extend(look.channels.iter().map(|channel| vec![channel.name.clone(), grouped(channel.clients)]));
        text += &format!("\n{}", table(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_what_counters_grew_by() {
        assert_eq!(rates(2.0, [10.0, 5.0], [30.0, 5.0]), [10.0, 0.0]);
        // A node that began anew counts from 0.
        assert_eq!(rates(2.0, [10.0], [4.0]), [0.0]);
        assert_eq!(rates(0.0, [1.0], [2.0]), [0.0]);
    }
}
