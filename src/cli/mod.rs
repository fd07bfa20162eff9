//! F11 · The command line: from arguments and environment to a command to carry out.
//!
//! Owns the subcommands that need no server and carries them out, writing to what it is given. `serve` it only
//! prepares. The one place that reads the configuration file. Never exits and never writes to standard error: that is
//! left to `main`.

mod doctor;
mod durable;
mod flags;
mod init;
mod manual;
mod remote;
mod token;
mod version;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use clap::error::ErrorKind;

use crate::config::{self, Config, ConfigError, File, Format, Warning};
use crate::engine;
use crate::host;

/// What is left to do.
#[derive(Debug)]
pub enum Action {
    /// Serve with this configuration. The warnings are still to be told, and by the sources it is loaded again.
    Serve(Box<Config>, Vec<Warning>, Box<Sources>),
    /// Everything has been done: exit with 0.
    Done,
    /// Everything has been done, and the answer is no: exit with 1.
    No,
}

/// A configuration, or every problem with it; and the warnings in either case.
type Examined = (Result<Config, Vec<ConfigError>>, Vec<Warning>);

/// Where the configuration comes from: flags and variables as they were at the start, and a file, read each time.
#[derive(Debug, Clone)]
pub struct Sources {
    path: Option<String>,
    env: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Sources {
    /// The configuration as the file has it now. An error is all problems, and nothing else is to be done about them.
    pub fn load(&self) -> Result<(Config, Vec<Warning>), Vec<String>> {
        let (result, warnings) = self.examine().map_err(|error| vec![error])?;
        match result {
            Ok(config) => Ok((config, warnings)),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    fn examine(&self) -> Result<Examined, String> {
        let text = match &self.path {
            Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?,
            None => String::new(),
        };
        let file = self.path.as_deref().map(|name| File { name, text: &text });
        Ok(config::examine(file, &self.env, &self.flags))
    }
}

/// What to print on standard error before an exit with 2: one line for each problem, the last one ended.
#[derive(Debug)]
pub struct CliError {
    text: String,
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CliError {}

fn fail(message: impl fmt::Display) -> CliError {
    CliError { text: format!("error: {message}\n") }
}

/// One line each; what stops the start comes first.
fn refuse(errors: &[ConfigError], warnings: &[Warning]) -> CliError {
    let errors = errors.iter().map(|error| format!("error: {error}\n"));
    CliError { text: errors.chain(warnings.iter().map(line)).collect() }
}

fn line(warning: &Warning) -> String {
    format!("warning: {warning}\n")
}

/// `args` begins with the program's name (`std::env::args_os()`), `env` is the environment
/// (`std::env::vars_os()`), `out` standard output.
pub fn run(
    args: impl Iterator<Item = OsString>,
    env: impl Iterator<Item = (OsString, OsString)>,
    out: &mut dyn Write,
) -> Result<Action, CliError> {
    let env = own_variables(env)?;
    let (args, unknown) = flags::take_unknown(flags::join_values(args).into_iter());
    let root = match flags::command().try_get_matches_from(args) {
        Ok(root) => root,
        Err(error) => return stopped(&error, &unknown, out),
    };
    let (name, matches) = root.subcommand().unwrap_or(("serve", &root));
    if unknown.is_empty()
        && let Some(text) = without_configuration(name, matches)
    {
        return print(out, &text.map_err(fail)?);
    }
    let source = source(&root, unknown, env)?;
    let (result, mut warnings) = source.examine().map_err(fail)?;
    let config = result.map_err(|errors| refuse(&errors, &warnings))?;
    if matches!(name, "check" | "serve") {
        warnings.extend(host::shortcomings(&config));
        let obstacles = host::obstacles(&config);
        if !obstacles.is_empty() {
            return Err(refuse(&obstacles, &warnings));
        }
    }
    match name {
        "check" => print(out, &(warnings.iter().map(line).collect::<String>() + "config ok\n")),
        "config" => {
            let format = matches.get_one::<String>("format").and_then(|word| Format::parse(word));
            print(out, &config::print(&config, format.unwrap_or(Format::Toml)))
        }
        "token" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(fail)?.as_secs();
            let (text, is_good) = token::carry_out(matches, &config.client, now).map_err(fail)?;
            let done = print(out, &text)?;
            Ok(if is_good { done } else { Action::No })
        }
        name if remote::is_one(name) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(fail)?.as_secs();
            remote::carry_out(name, matches, &config, now, out).map_err(fail)?;
            Ok(Action::Done)
        }
        "durable" => {
            let text = durable::carry_out(matches, &config).map_err(fail)?;
            print(out, &text)
        }
        "doctor" if matches.get_flag("engine") => {
            let text = engine::report::report(&config).map_err(fail)?;
            print(out, &text)
        }
        "doctor" => {
            let (text, fits) = doctor::examine(&doctor::Question::of(matches), &config).map_err(fail)?;
            let done = print(out, &text)?;
            Ok(if fits { done } else { Action::No })
        }
        _ => Ok(Action::Serve(Box::new(config), warnings, Box::new(source))),
    }
}

/// What a command prints that reads no configuration, so that one with an error does not keep it from its work.
fn without_configuration(name: &str, matches: &ArgMatches) -> Option<Result<String, String>> {
    match name {
        "version" => Some(Ok(version::text())),
        "init" => Some(init::carry_out(matches)),
        "completions" => Some(manual::completions(matches)),
        "man" => Some(manual::pages(matches)),
        "config" if matches.get_flag("schema") => Some(Ok(format!("{:#}\n", config::schema()))),
        _ => None,
    }
}

/// The variables that are ours to judge, and the names of Centrifugo's, which are not read. Others may be any bytes.
fn own_variables(env: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, CliError> {
    let mut own = Vec::new();
    for (name, value) in env {
        if name.to_string_lossy().starts_with("CENTRIFUGO_") {
            own.push((name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
            continue;
        }
        if !name.to_string_lossy().starts_with("GANNET_") {
            continue;
        }
        let bad = |name: OsString| fail(format!("environment: {}: expected UTF-8", name.to_string_lossy()));
        let value = value.into_string().map_err(|_| bad(name.clone()))?;
        own.push((name.into_string().map_err(bad)?, value));
    }
    // The environment has no order of its own; the messages shall have one.
    own.sort();
    Ok(own)
}

/// Clap took no command from the arguments: help was asked for, or they are wrong.
fn stopped(error: &clap::Error, unknown: &[(String, String)], out: &mut dyn Write) -> Result<Action, CliError> {
    let text = error.render().to_string();
    if let Some((theirs, ours)) = flags::command_of_centrifugo(error) {
        return Err(fail(format!("{theirs} is a command of Centrifugo: write `gannet {ours}` (see --help)")));
    }
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return print(out, &text);
    }
    let others = config::load(None, &[], unknown).err().unwrap_or_default();
    Err(CliError { text: refuse(&others, &[]).text + &text })
}

/// All three sources. Flags may stand before a subcommand and after it.
fn source(root: &ArgMatches, unknown: Vec<(String, String)>, env: Vec<(String, String)>) -> Result<Sources, CliError> {
    let levels = std::iter::successors(Some(root), |level| level.subcommand().map(|(_, below)| below));
    let levels: Vec<&ArgMatches> = levels.filter(|level| level.try_contains_id("config").is_ok()).collect();
    let mut flags: Vec<_> = levels.iter().flat_map(|level| flags::given(level)).collect();
    flags.extend(unknown);

    let mut named = levels.iter().filter_map(|level| level.get_one::<String>("config").cloned());
    let path = named.next();
    if named.next().is_some() {
        return Err(fail("command line: --config: is given twice"));
    }
    let variable = env.iter().find(|(name, value)| name == "GANNET_CONFIG" && !value.is_empty());
    let path = path.or(variable.map(|(_, value)| value.clone()));
    Ok(Sources { path, env, flags })
}

/// Whoever reads may stop early (`gannet config | head`); that is no failure.
fn print(out: &mut dyn Write, text: &str) -> Result<Action, CliError> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(fail(format!("output: {error}"))),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests;
