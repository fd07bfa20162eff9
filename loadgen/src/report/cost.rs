//! What the server spent, as rows of the table and as JSON. What is not known is said, with the reason.

use serde_json::{Value, json};

use super::agents::has_both_ends;
use super::text::{bytes, count};
use crate::conduct::Outcome;
use crate::cost::Costs;
use crate::cost::kernel::Growth;

/// A row of the table: its name, and what it says.
type Row = (&'static str, String);

/// Rows of everything that was asked for.
pub fn rows(outcome: &Outcome) -> Vec<Row> {
    let (spent, messages) = (&outcome.spent, outcome.tally.counts.sent + outcome.tally.counts.got);
    let mut all = Vec::new();
    for (costs, cpu, memory) in
        [(&spent.processes, "server cpu", "server memory"), (&spent.pages, "cpu by metrics", "RSS by metrics")]
    {
        match costs {
            None => {}
            Some(Ok(costs)) => process_rows(costs, messages, cpu, memory, &mut all),
            Some(Err(why)) => all.push((cpu, format!("not known: {why}"))),
        }
    }
    if let Some(growth) = &spent.kernel {
        kernel_rows(growth, has_both_ends(&outcome.agents), &mut all);
    }
    all
}

fn process_rows(costs: &Costs, messages: u64, cpu: &'static str, memory: &'static str, all: &mut Vec<Row>) {
    all.push((
        cpu,
        format!("{:.2} s to connect, {:.2} s to play", costs.connect_cpu_seconds(), costs.play_cpu_seconds()),
    ));
    if let Some(seconds) = costs.cpu_seconds_per_million(messages) {
        all.push(("", format!("{seconds:.3} s for a million messages in and out")));
    }
    if let Some(rss) = costs.rss_each() {
        let private = costs.private_each().map_or(String::new(), |private| format!(", {} private", bytes(private)));
        let all_of_it = bytes(costs.connected.rss_bytes as f64);
        all.push((memory, format!("{} RSS{private} each client; RSS {all_of_it}", bytes(rss))));
    }
    if let Some(switches) = costs.switches() {
        let text = format!("{} voluntary, {} involuntary", count(switches.voluntary), count(switches.involuntary));
        all.push(("switches", text));
    }
}

fn kernel_rows(growth: &Growth, both_ends: Option<bool>, all: &mut Vec<Row>) {
    let ends = match both_ends {
        Some(true) => "both its ends together",
        Some(false) => "the server's end",
        None => "the server's end, and of the client's if its agent is here",
    };
    match (&growth.slabs, growth.slabs_each()) {
        (Ok(slabs), Some(sum)) => {
            all.push(("kernel memory", format!("{} each client in slabs, of {ends}:", bytes(sum))));
            let slab = |(name, each): &(String, f64)| ("", format!("{:>10}  {name}", bytes(*each)));
            all.extend(slabs.iter().map(slab));
        }
        (Err(why), _) => all.push(("kernel memory", format!("slabs not known: {why}"))),
        (Ok(_), None) => {}
    }
    if let Some(tcp) = growth.tcp_bytes {
        let each = growth.tcp_each.map_or(String::new(), |each| format!("; {} each client", bytes(each)));
        all.push(("tcp buffers", format!("{} of this host with everyone connected{each}", bytes(tcp as f64))));
    }
}

/// The costs as JSON; null = nobody asked for them.
pub fn costs_json(outcome: &Outcome, costs: Option<&Result<Costs, String>>) -> Value {
    let (counts, costs) = match costs {
        None => return Value::Null,
        Some(Err(why)) => return json!({"unknown": why}),
        Some(Ok(costs)) => (&outcome.tally.counts, costs),
    };
    json!({
        "connect_cpu_seconds": costs.connect_cpu_seconds(),
        "play_cpu_seconds": costs.play_cpu_seconds(),
        "cpu_seconds_per_million_messages": costs.cpu_seconds_per_million(counts.sent + counts.got),
        "rss_bytes_before": costs.before.rss_bytes,
        "rss_bytes": costs.connected.rss_bytes,
        "private_bytes": costs.connected.private_bytes,
        "rss_bytes_per_client": costs.rss_each(),
        "private_bytes_per_client": costs.private_each(),
        "voluntary_switches": costs.switches().map(|switches| switches.voluntary),
        "involuntary_switches": costs.switches().map(|switches| switches.involuntary),
    })
}

/// What the kernel keeps as JSON.
pub fn kernel_json(outcome: &Outcome) -> Value {
    let Some(growth) = &outcome.spent.kernel else { return Value::Null };
    let slab = |(name, each): &(String, f64)| json!({"name": name, "bytes_per_client": each});
    let is_known = growth.tcp_bytes.is_some() || growth.slabs.is_ok();
    json!({
        "slab_bytes_per_client": growth.slabs_each(),
        "slabs": growth.slabs.as_ref().ok().map(|slabs| slabs.iter().map(slab).collect::<Vec<_>>()),
        "slabs_unknown": growth.slabs.as_ref().err(),
        "of_both_ends": if is_known { has_both_ends(&outcome.agents) } else { Some(false) },
        "tcp_buffer_bytes": growth.tcp_bytes,
        "tcp_buffer_bytes_per_client": growth.tcp_each,
    })
}
