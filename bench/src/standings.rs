//! Gannet beside the floor and its peers, as Markdown: a line for each shape of load, a column for each server.
//!
//! Never knows which servers there are: those of the result file, in its order.

use std::fmt::Write;
use std::io;

use crate::results::{File, Row};

const FLOOR: &str = "floor";
const OURS: &str = "gannet";

/// The table, without the markers around it. A server that was not measured in a shape has an empty cell there.
pub fn table(file: &File) -> io::Result<String> {
    let rows = file.rows()?;
    let (shapes, servers) = (distinct(&rows, "/shape")?, distinct(&rows, "/server")?);
    let peers: Vec<&str> = servers.into_iter().filter(|name| ![FLOOR, OURS].contains(name)).collect();
    let mut text = format!("| CPU time per message, x floor | floor, us | {OURS} | at most |");
    peers.iter().for_each(|peer| text.push_str(&format!(" {peer} |")));
    let _ = writeln!(text, "\n|---|---|---|---|{}", "---|".repeat(peers.len()));
    for shape in shapes {
        let row = |server: &str| rows.iter().find(|row| row.is("/shape", shape) && row.is("/server", server));
        let (floor, ours) = (row(FLOOR), row(OURS));
        let (Some(floor), Some(ours)) = (floor, ours) else {
            return Err(file.lacks(&format!("the floor or {OURS} in {shape:?}")));
        };
        let spread = format!("{:.2} to {:.2}", ours.number("/ratio/min")?, ours.number("/ratio/max")?);
        let target = ours.optional("/target").map_or(String::new(), |target| format!("{target:.2}"));
        let _ = write!(
            text,
            "| {shape} | {:.2} | **{:.2}** ({spread}) | {target} |",
            floor.median("/cpu_us")?,
            ours.number("/ratio/median")?
        );
        for peer in &peers {
            let ratio = row(peer).map(|row| row.number("/ratio/median")).transpose()?;
            let cell =
                ratio.map_or(
                    String::new(),
                    |ratio| {
                        if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
                    },
                );
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    let head = file.head();
    let _ = writeln!(
        text,
        "\nFrom `{}`: {:.0} repetitions; median, and least to most of Gannet's; {}.",
        file.name,
        head.number("/repetitions")?,
        file.machine()?
    );
    Ok(text)
}

/// Texts at `place`, each once, in the order of the rows.
fn distinct<'a>(rows: &'a [Row<'_>], place: &str) -> io::Result<Vec<&'a str>> {
    let mut all: Vec<&str> = Vec::new();
    for row in rows {
        let text = row.text(place)?;
        if !all.contains(&text) {
            all.push(text);
        }
    }
    Ok(all)
}
