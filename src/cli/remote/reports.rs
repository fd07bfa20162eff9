//! F11 · Commands that ask once and print the answer.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::api::ServerApi;
use super::{Ended, Remote};

pub fn report(name: &str, remote: &Remote<'_>, out: &mut dyn Write) -> Ended {
    let api = ServerApi::of(remote)?;
    if name == "pub" {
        return publish(remote, &api, out);
    }
    let channel = remote.text("channel").unwrap_or_default();
    let params = match name {
        "presence" => json!({"channel": channel}),
        "history" => {
            let limit = remote.number("limit").unwrap_or(0);
            json!({"channel": channel, "limit": limit, "reverse": remote.is_set("reverse")})
        }
        "channels" => json!({"pattern": remote.text("pattern").unwrap_or_default()}),
        _ => json!({}),
    };
    let result = api.call(name, &params)?;
    if remote.is_set("json") {
        return print(out, &format!("{result}\n"));
    }
    let text = match name {
        "presence" => presence(&result),
        "history" => history(&result),
        "channels" => channels(&result),
        _ => info(&result),
    };
    print(out, &text.map_err(|error| format!("the answer cannot be read: {error}"))?)
}

/// Whoever reads may stop early; that is no failure.
pub fn print(out: &mut dyn Write, text: &str) -> Ended {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("output: {error}")),
        _ => Ok(()),
    }
}

/// What is published: the data goes as it was written.
#[derive(Serialize)]
struct Published<'a> {
    channel: &'a str,
    data: Box<RawValue>,
    tags: BTreeMap<&'a str, &'a str>,
    skip_history: bool,
}

/// Where it stands, if the channel keeps history.
#[derive(Deserialize, Default)]
#[serde(default)]
struct At {
    offset: u64,
    epoch: String,
}

fn publish(remote: &Remote<'_>, api: &ServerApi, out: &mut dyn Write) -> Ended {
    let tags = remote.flags.get_many::<String>("tag").into_iter().flatten();
    let tags: BTreeMap<&str, &str> = tags.map(|tag| tag_of(tag)).collect::<Result<_, _>>()?;
    let (channel, skip_history) = (remote.text("channel").unwrap_or_default(), remote.is_set("skip-history"));
    let mut send = |text: &str| {
        let published = Published { channel, data: data_of(text)?, tags: tags.clone(), skip_history };
        let result = api.call("publish", &published)?;
        if remote.is_set("json") {
            return print(out, &format!("{result}\n"));
        }
        let at: At = serde_json::from_str(result.get()).unwrap_or_default();
        match at.offset {
            0 => print(out, "published\n"),
            offset => print(out, &format!("published at offset {offset}, epoch {}\n", at.epoch)),
        }
    };
    match remote.text("data") {
        Some("-") => std::io::stdin().lock().lines().try_for_each(|line| {
            let line = line.map_err(|error| format!("standard input: {error}"))?;
            if line.is_empty() { Ok(()) } else { send(&line) }
        }),
        data => send(data.unwrap_or_default()),
    }
}

fn tag_of(tag: &str) -> Result<(&str, &str), String> {
    tag.split_once('=').ok_or_else(|| format!("--tag: expected NAME=VALUE; got {tag:?}"))
}

/// JSON as it is; what cannot be meant as JSON is a text.
fn data_of(text: &str) -> Result<Box<RawValue>, String> {
    match serde_json::from_str(text) {
        Ok(json) => Ok(json),
        Err(error) if text.trim_start().starts_with(['{', '[', '"']) => {
            Err(format!("DATA begins like JSON and is none: {error}"))
        }
        Err(_) => serde_json::value::to_raw_value(text).map_err(|error| error.to_string()),
    }
}

/// A client as others see it.
#[derive(Deserialize)]
pub struct ShownClient {
    #[serde(default)]
    pub client: String,
    #[serde(default)]
    pub user: String,
    pub conn_info: Option<Box<RawValue>>,
    pub chan_info: Option<Box<RawValue>>,
}

impl ShownClient {
    /// What is known of it beside its name.
    fn facts(&self) -> String {
        let facts = [("conn_info", &self.conn_info), ("chan_info", &self.chan_info)];
        let facts = facts.into_iter().filter_map(|(name, fact)| Some(format!("{name}={}", fact.as_ref()?)));
        facts.collect::<Vec<_>>().join(" ")
    }
}

#[derive(Deserialize)]
struct Present {
    presence: BTreeMap<String, ShownClient>,
}

fn presence(result: &RawValue) -> serde_json::Result<String> {
    let Present { presence } = serde_json::from_str(result.get())?;
    let mut rows = vec![row(["USER", "CLIENT", "INFO"])];
    rows.extend(presence.into_values().map(|who| {
        let facts = who.facts();
        vec![if who.user.is_empty() { "(anonymous)".to_owned() } else { who.user }, who.client, facts]
    }));
    let total = format!("{} clients\n", rows.len() - 1);
    Ok(table(&rows) + &total)
}

#[derive(Deserialize)]
struct Kept {
    publications: Vec<KeptOne>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

#[derive(Deserialize)]
struct KeptOne {
    #[serde(default)]
    offset: u64,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

fn history(result: &RawValue) -> serde_json::Result<String> {
    let kept: Kept = serde_json::from_str(result.get())?;
    let one = |one: &KeptOne| {
        let tags: String = one.tags.iter().map(|(name, value)| format!("  {name}={value}")).collect();
        format!("#{} {}{tags}\n", one.offset, one.data.as_ref().map_or("", |data| data.get()))
    };
    let lines: String = kept.publications.iter().map(one).collect();
    Ok(format!("{lines}{} shown; the latest is #{} of epoch {}\n", kept.publications.len(), kept.offset, kept.epoch))
}

#[derive(Deserialize)]
struct Channels {
    channels: BTreeMap<String, ChannelClients>,
}

#[derive(Deserialize)]
struct ChannelClients {
    #[serde(default)]
    num_clients: u64,
}

/// Channels with how many clients they have, most first.
pub fn by_clients(result: &RawValue) -> serde_json::Result<Vec<(String, u64)>> {
    let Channels { channels } = serde_json::from_str(result.get())?;
    let mut all: Vec<(String, u64)> = channels.into_iter().map(|(name, of)| (name, of.num_clients)).collect();
    all.sort_by(|(name, count), (other, others)| others.cmp(count).then_with(|| name.cmp(other)));
    Ok(all)
}

fn channels(result: &RawValue) -> serde_json::Result<String> {
    let mut rows = vec![row(["CHANNEL", "CLIENTS"])];
    rows.extend(by_clients(result)?.into_iter().map(|(name, count)| vec![name, grouped(count)]));
    let total = format!("{} channels\n", rows.len() - 1);
    Ok(table(&rows) + &total)
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<NodeFacts>,
}

/// What `info` says of a node.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct NodeFacts {
    pub uid: String,
    pub name: String,
    pub version: String,
    pub num_clients: u64,
    pub num_users: u64,
    pub num_subs: u64,
    pub num_channels: u64,
    pub uptime: u64,
    pub metrics: NodeCounters,
    pub process: NodeProcess,
}

/// Counters since the start.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct NodeCounters {
    pub interval: f64,
    pub items: BTreeMap<String, f64>,
}

/// What the process takes.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct NodeProcess {
    pub rss: u64,
}

pub fn nodes(result: &RawValue) -> serde_json::Result<Vec<NodeFacts>> {
    serde_json::from_str(result.get()).map(|Nodes { nodes }| nodes)
}

fn info(result: &RawValue) -> serde_json::Result<String> {
    let mut rows = vec![row(["NODE", "VERSION", "UP", "CLIENTS", "USERS", "SUBSCRIPTIONS", "CHANNELS", "MEMORY"])];
    rows.extend(nodes(result)?.into_iter().map(|node| {
        let counts = [node.num_clients, node.num_users, node.num_subs, node.num_channels].map(grouped);
        let ends =
            [vec![node.name, node.version, span(node.uptime)], counts.into(), vec![size(node.process.rss as f64)]];
        ends.concat()
    }));
    Ok(table(&rows))
}

/// The head of a table.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Rows under each other. What is a number in its second row stands at the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let is_number = |at: usize| {
        rows.iter().skip(1).filter_map(|row| row.get(at)).all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()))
    };
    let right: Vec<bool> = (0..columns).map(|at| at > 0 && rows.len() > 1 && is_number(at)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(at, cell)| match right[at] {
            true => format!("{cell:>width$}", width = widths[at]),
            false => format!("{cell:<width$}", width = widths[at]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `1,234,567`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `512 B`, `1.5 KiB`, `20 MiB`
pub fn size(bytes: f64) -> String {
    let mut left = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if left < 1024.0 || unit == "GiB" {
            let digits = if left < 10.0 && unit != "B" { 1 } else { 0 };
            return format!("{left:.digits$} {unit}");
        }
        left /= 1024.0;
    }
    String::new()
}

/// `45s`, `5m`, `3h 20m`, `2d 4h`
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_people_read_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([512.0, 1536.0, 20_971_520.0].map(size), ["512 B", "1.5 KiB", "20 MiB"]);
        assert_eq!([45, 300, 12_000, 187_200].map(span), ["45s", "5m", "3h 20m", "2d 4h"]);
    }

    #[test]
    fn data_is_json_or_a_text_and_never_broken_json() {
        let sent = |text| data_of(text).map(|data| data.get().to_owned());
        assert_eq!(sent("{\"b\":1.50,\"a\":1}"), Ok("{\"b\":1.50,\"a\":1}".to_owned()));
        assert_eq!(sent("-5"), Ok("-5".to_owned()));
        assert_eq!(sent("hello you"), Ok("\"hello you\"".to_owned()));
        assert!(sent("{a:1}").is_err_and(|error| error.contains("begins like JSON")));
    }

    #[test]
    fn a_table_lines_up() {
        let rows = [row(["CHANNEL", "CLIENTS"]), row(["a", "1,000"]), row(["longer-name", "7"])];
        assert_eq!(table(&rows), "CHANNEL      CLIENTS\na              1,000\nlonger-name        7\n");
    }
}
