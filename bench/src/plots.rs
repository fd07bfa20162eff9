//! The plots of docs/benchmarks.md, out of the result files: which figures, in which panels. Never knows how a bar is drawn.

use std::io;

use crate::capacity::{PINGS, idle, kernel, user};
use crate::figures::{three_digits, with_commas};
use crate::results::{File, Results, Row};
use crate::svg::{Bar, Panel, Sheet, draw};

/// Where the axes of ratios end: what is close to the floor is to be told apart.
const RATIO_END: f64 = 3.0;

/// Where the axes of bytes end, as a multiple of Gannet's dearest client.
const BYTES_END: f64 = 10.0;

const OURS: &str = "gannet";

/// Name and text of each file.
pub fn files(results: &Results) -> io::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("compare.svg", draw(&compare(&results.compare)?)),
        ("memory.svg", draw(&memory(&results.memory)?)),
        ("growth.svg", draw(&growth(&results.growth)?)),
        ("delivery.svg", draw(&delivery(&results.growth)?)),
    ])
}

fn source(file: &File) -> io::Result<String> {
    Ok(format!("From bench/results/{}: {}", file.name, file.machine()?))
}

/// A panel for each shape, in the order of the file; a server without a figure in a shape has no bar in it.
fn compare(file: &File) -> io::Result<Sheet> {
    let mut panels: Vec<Panel> = Vec::new();
    for row in file.rows()? {
        let (shape, value) = (row.text("/shape")?, row.number("/ratio/median")?);
        let server = row.text("/server")?;
        let bar = Bar {
            name: server.to_owned(),
            value,
            figure: if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") },
            range: Some((row.number("/ratio/min")?, row.number("/ratio/max")?)),
            ours: server == OURS,
        };
        match panels.iter_mut().find(|panel| panel.title == shape) {
            Some(panel) => panel.bars.push(bar),
            None => {
                let title = shape.to_owned();
                panels.push(Panel { title, bars: vec![bar], end: Some(RATIO_END), line: Some(1.0) });
            }
        }
    }
    let repetitions = file.head().number("/repetitions")?;
    Ok(Sheet {
        title: "CPU time of the server per message, x floor".to_owned(),
        unit: format!(
            "Median of {repetitions:.0} repetitions, least to most as a line; the floor is a bare epoll loop. Less is better. \
             Bars beyond {RATIO_END} are cut."
        ),
        source: source(file)?,
        panels,
    })
}

fn memory(file: &File) -> io::Result<Sheet> {
    let rows: Vec<Row<'_>> = file.rows()?.into_iter().filter(|row| !row.is("/case", "kept")).collect();
    let (mut idle, mut after, mut dearest) = (Vec::new(), Vec::new(), 0f64);
    for row in &rows {
        let ours = row.is("/server", OURS);
        for (bars, place) in [(&mut idle, "/idle"), (&mut after, "/after_message")] {
            if row.optional(&format!("{place}/rss")).is_none() {
                continue;
            }
            let value = row.memory(place)?;
            if ours {
                dearest = dearest.max(value);
            }
            bars.push(Bar { name: client(row)?, value, figure: with_commas(value), range: None, ours });
        }
    }
    let size = with_commas(file.head().number("/message_bytes")?);
    let longest = idle.iter().chain(&after).map(|bar| bar.value).fold(0.0, f64::max);
    let end = if dearest > 0.0 { longest.min(dearest * BYTES_END) } else { longest };
    let panel = |title: String, bars: Vec<Bar>| Panel { title, bars, end: Some(end), line: None };
    Ok(Sheet {
        title: "Process memory of a client, bytes".to_owned(),
        unit: format!(
            "{} clients, resident or in use, whichever is more, less the same server with one; a client of Gannet has a token and a subscription, a peer's only \
             its connection. Less is better.",
            with_commas(file.head().number("/clients")?)
        ),
        source: source(file)?,
        panels: vec![panel("idle".to_owned(), idle), panel(format!("after each sent {size} bytes"), after)],
    })
}

/// What a row of memory.json is of.
fn client(row: &Row<'_>) -> io::Result<String> {
    let server = row.text("/server")?;
    if server != OURS {
        return Ok(server.to_owned());
    }
    Ok(match row.text("/case")? {
        "shared" => match row.number("/channels")? {
            count if count <= 1.0 => "gannet, 1 channel".to_owned(),
            count => format!("gannet, {} channels", with_commas(count)),
        },
        "cached" => "its token remembered".to_owned(),
        "personal" => "its own channel, too".to_owned(),
        other => other.to_owned(),
    })
}

/// A bar for each size.
fn by_size(
    file: &File,
    title: String,
    figure: impl Fn(&Row<'_>) -> io::Result<f64>,
    name: impl Fn(f64) -> String,
) -> io::Result<Panel> {
    let mut bars = Vec::new();
    for row in file.rows()? {
        let value = figure(&row)?;
        bars.push(Bar { name: clients(&row)?, value, figure: name(value), range: None, ours: true });
    }
    Ok(Panel { title, bars, end: None, line: None })
}

fn clients(row: &Row<'_>) -> io::Result<String> {
    Ok(format!("{} clients", with_commas(row.number("/clients")?)))
}

fn growth(file: &File) -> io::Result<Sheet> {
    let rate = |row: &Row<'_>| row.number("/connect/per_second");
    let cpu = |value: f64| format!("{value:.3}");
    let panels = vec![
        by_size(file, "process memory of a client, bytes of RSS".to_owned(), user, with_commas)?,
        by_size(file, "kernel memory, the server's end, bytes".to_owned(), kernel, with_commas)?,
        by_size(file, format!("CPU of an idle client, us a second, pings every {PINGS} s"), idle, cpu)?,
        by_size(file, "clients connected a second, both ends".to_owned(), rate, |value| {
            with_commas(three_digits(value))
        })?,
    ];
    Ok(Sheet {
        title: "What a client costs, by number of clients: bytes, CPU, connects a second".to_owned(),
        unit: "Several server processes on one port, a reactor each; clients on the same machine.".to_owned(),
        source: source(file)?,
        panels,
    })
}

/// A panel for each size, and the pace of all of them.
fn delivery(file: &File) -> io::Result<Sheet> {
    let mut panels = Vec::new();
    let mut payload = String::new();
    for row in file.rows()? {
        let mut bars = Vec::new();
        for (name, place) in
            [("median", "/deliver/p50_ms"), ("99%", "/deliver/p99_ms"), ("the last", "/deliver/max_ms")]
        {
            let value = row.number(place)?;
            let figure = if value < 100.0 { format!("{value:.1}") } else { with_commas(value) };
            bars.push(Bar { name: name.to_owned(), value, figure, range: None, ours: true });
        }
        panels.push(Panel { title: format!("to {}, ms", clients(&row)?), bars, end: None, line: None });
        payload = with_commas(row.number("/deliver/payload_bytes")?);
    }
    let rate = |row: &Row<'_>| row.number("/deliver/per_second");
    let pace = |value: f64| with_commas(three_digits(value));
    panels.push(by_size(file, "deliveries a second, until the last".to_owned(), rate, pace)?);
    Ok(Sheet {
        title: "One publication to all: time until a client has read it, ms".to_owned(),
        unit: format!(
            "Data of {payload} bytes, nothing else in flight; servers and clients share the machine's cores."
        ),
        source: source(file)?,
        panels,
    })
}
