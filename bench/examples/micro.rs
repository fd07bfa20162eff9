//! Runs one micro-bench a fixed number of times and measures nothing: `bench/micro` counts its instructions from outside.
//!
//! An example and no program of its own, because only what is for development may use the server's crate.

#[path = "../benches/bodies/mod.rs"]
mod bodies;

use std::process::ExitCode;

const USAGE: &str = "micro --list        names, one a line
micro NAME TIMES    runs the micro-bench NAME so many times";

fn run(arguments: &[String]) -> Option<()> {
    match arguments {
        [list] if list == "--list" => bodies::all().for_each(|body| println!("{}", body.name)),
        [name, times] => {
            let times: u64 = times.parse().ok()?;
            let mut operation = (bodies::all().find(|body| body.name == name)?.prepare)();
            (0..times).for_each(|_| operation());
        }
        _ => return None,
    }
    Some(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Some(()) => ExitCode::SUCCESS,
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
