//! F11 · `gannet durable`: the tables of an archive in a database.
//!
//! Owns the command's flags and which database it means. What is made and told is the archive's.

#[cfg(feature = "databases")]
use crate::archive::sql::SqlOptions;
#[cfg(feature = "databases")]
use crate::archive::sql::migrate::{migrate, status};
#[cfg(not(feature = "databases"))]
use crate::config::BuildPart;
use crate::config::Config;
use clap::{Arg, ArgAction, ArgMatches, Command};

const EXAMPLES: &str = "\
Examples:
  gannet durable migrate -c gannet.toml            makes the tables of durable.postgresql, or what is missing of them
  gannet durable migrate -c gannet.toml --dry-run  prints the statements instead
  gannet durable status -c gannet.toml             are they there, and is the database set so that nothing is lost?";

pub fn command(configured: fn(Command) -> Command) -> Command {
    let dry = Arg::new("dry-run").long("dry-run").help("Print the statements, change nothing");
    let migrate = Command::new("migrate").about("Make and upgrade the tables; two may run at once");
    let status = Command::new("status").about("Tell what is there");
    Command::new("durable")
        .about("Look after the archive's database (durable.type postgresql or mysql)")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .subcommand(configured(migrate.arg(dry.action(ArgAction::SetTrue))))
        .subcommand(configured(status))
}

/// The error is a line for the operator.
#[cfg(feature = "databases")]
pub fn carry_out(matches: &ArgMatches, config: &Config) -> Result<String, String> {
    let what = "durable.type: expected postgresql or mysql: an embedded archive has no tables";
    let options = SqlOptions::of(config).ok_or(what)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    match matches.subcommand() {
        Some(("migrate", given)) => runtime.block_on(migrate(&options, given.get_flag("dry-run"))),
        _ => runtime.block_on(status(&options)),
    }
}

#[cfg(not(feature = "databases"))]
pub fn carry_out(_: &ArgMatches, _: &Config) -> Result<String, String> {
    Err(BuildPart::Databases.fault().unwrap_or_default())
}
