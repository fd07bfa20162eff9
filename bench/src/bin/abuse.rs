//! Attacks on a server beside a control group of well-behaved clients: who is hurt, and by how much.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gannet_bench::abuse::attack::Attack;
use gannet_bench::abuse::attacks::ATTACKS;
use gannet_bench::abuse::report::{self, Row};
use gannet_bench::abuse::trial::{self, Times};
use gannet_bench::machine;

const ABOUT: &str = "\
Attack a server beside 200 well-behaved clients

Each attack has a server of its own on loopback, with one reactor unless the attack is about two. A
control group of 200 subscribers gets 20 publications a second, 50 of them from a channel with
history; 10 publish to themselves as well, and all are pinged every 3 seconds. Attackers come for
some seconds and leave. Printed are p50/p99 of the publications before, during and after, what was
lost, which bystanders were closed, and the server's memory before, at its peak and 30 s after.";

const EXAMPLES: &str = "\
Limits: no bystander closed, no publication to one lost, refused or doubled; p99 at most 50 ms beside
fewer than 1,000 attackers; memory at most 64 MiB over the quiet server and what is documented, and
within a tenth (or 8 MiB) of it 30 s after; health and API answer within 5 s; a client that comes
afterwards is served; at most 50 lines in the log.

Examples:
  bench/abuse                                  everything; about half an hour
  bench/abuse --short                          times are shown and not judged; about three minutes
  bench/abuse --only ping-flood,bad-es512 --server /usr/bin/gannet
  bench/abuse --list                           the attacks

Ctrl-C ends it and the server at any time. Ends with 1 if a limit is passed, with 2 if the run itself
failed or the loader was too late to judge.";

#[derive(Debug, Parser)]
#[command(about = ABOUT, after_help = EXAMPLES)]
struct Flags {
    /// Only these attacks
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    only: Vec<String>,
    /// Print the names of the attacks and what they do, and end
    #[arg(long)]
    list: bool,
    /// Seconds instead of minutes: losses, closes and memory are judged, times are not
    #[arg(long)]
    short: bool,
    /// The gannet program [default: beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Seconds that an attack lasts, without --short
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Flags {
    /// The attacks that are wanted, in their order.
    fn attacks(&self) -> io::Result<Vec<&'static Attack>> {
        let known = |name: &String| ATTACKS.iter().any(|attack| attack.name == *name);
        if let Some(name) = self.only.iter().find(|name| !known(name)) {
            return Err(io::Error::other(format!("there is no attack {name}; --list names them")));
        }
        let wanted = |attack: &&Attack| self.only.is_empty() || self.only.iter().any(|name| name == attack.name);
        Ok(ATTACKS.iter().filter(wanted).collect())
    }

    fn program(&self) -> io::Result<PathBuf> {
        let path = match &self.server {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("gannet"),
        };
        match path.is_file() {
            true => Ok(path),
            false => Err(io::Error::other(format!("{} is not there; --server says where it is", path.display()))),
        }
    }
}

fn run(flags: &Flags) -> io::Result<ExitCode> {
    let attacks = flags.attacks()?;
    if flags.list {
        for attack in attacks {
            println!("{:<20} {}", attack.name, attack.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let program = flags.program()?;
    machine::raise_descriptors()?;
    let times = if flags.short { Times::short() } else { Times::full(flags.seconds) };
    let (mut rows, mut broken): (Vec<Row>, Vec<String>) = (Vec::new(), Vec::new());
    for (at, attack) in attacks.iter().enumerate() {
        eprintln!("{:>2} of {}  {}: {}", at + 1, attacks.len(), attack.name, attack.about);
        match trial::run(attack, &program, flags.short, &times) {
            Ok(row) => {
                report::lines(&row).iter().for_each(|line| eprintln!("         {line}"));
                rows.push(row);
            }
            Err(error) => {
                eprintln!("         not measured: {error}");
                broken.push(format!("{}: {error}", attack.name));
            }
        }
    }
    report::print(&rows);
    if let Some(path) = &flags.json {
        fs::write(path, format!("{:#}\n", report::json(&rows, flags.short)))?;
        println!("written to {}", path.display());
    }
    Ok(end(&rows, &broken))
}

/// Says how many kept all limits; the exit code.
fn end(rows: &[Row], broken: &[String]) -> ExitCode {
    for (outcome, verdict) in rows {
        verdict.faults.iter().for_each(|fault| println!("{}: {fault}", outcome.name));
    }
    broken.iter().for_each(|broken| println!("not measured: {broken}"));
    let failed = rows.iter().filter(|(_, verdict)| !verdict.faults.is_empty()).count();
    let unclear = rows.iter().filter(|(_, verdict)| verdict.unclear.is_some()).count();
    if unclear > 0 {
        println!("{unclear} could not be judged: run them again when nothing else runs");
    }
    println!("abuse: {} passed, {} failed", rows.len() - failed, failed + broken.len());
    match (failed, unclear + broken.len()) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    run(&Flags::parse()).unwrap_or_else(|error| {
        eprintln!("abuse: {error}");
        ExitCode::from(2)
    })
}
