//! F11 · Pages for `man` and completions for shells, made from the command line itself.

use std::fs;

use clap::ArgMatches;
use clap_complete::Shell;

use super::flags;

/// For one shell, as text.
pub fn completions(matches: &ArgMatches) -> Result<String, String> {
    let shell = matches.get_one::<Shell>("shell").ok_or("expected the name of a shell")?;
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut flags::command(), "gannet", &mut script);
    String::from_utf8(script).map_err(|error| error.to_string())
}

/// A page for each command, as files of a folder.
pub fn pages(matches: &ArgMatches) -> Result<String, String> {
    let folder = matches.get_one::<String>("folder").ok_or("expected a folder")?;
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(flags::command(), folder));
    written.map_err(|error| format!("{folder}: {error}"))?;
    Ok(format!("pages are written to {folder}; read one: man {folder}/gannet.1\n"))
}
