//! Draws the plots and the tables of the documents from the results, or says which of them are old.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gannet_bench::results::Results;
use gannet_bench::{capacity, page, standings};

/// Draw the plots of docs/plots and the tables of docs/benchmarks.md from bench/results
#[derive(Debug, Parser)]
struct Flags {
    /// Change nothing; end with 1 if a plot or a table is not what the results give
    #[arg(long, conflicts_with = "table")]
    check: bool,
    /// Only print the tables
    #[arg(long)]
    table: bool,
    /// Folder of the results
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// Folder of the documents
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))]
    documents: PathBuf,
}

fn run(flags: &Flags) -> io::Result<bool> {
    let results = Results::read(&flags.results)?;
    if flags.table {
        print!("{}\n{}", standings::table(&results.compare)?, capacity::table(&results)?);
        return Ok(true);
    }
    if flags.check {
        let differences = page::differences(&results, &flags.documents)?;
        for line in &differences {
            println!("OLD  {line}");
        }
        println!("{}", if differences.is_empty() { "kept: all are what the results give" } else { "run bench/plots" });
        return Ok(differences.is_empty());
    }
    for path in page::write(&results, &flags.documents)? {
        println!("written to {}", path.display());
    }
    Ok(true)
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plots: {error}");
            ExitCode::from(2)
        }
    }
}
