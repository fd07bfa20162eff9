//! F11 · The command line as clap sees it: subcommands, their flags, and one flag for each option.
//!
//! Owns names, help texts and examples, and the way back from clap's matches to pairs of option and text.
//! The options' own texts come from `config`. Never judges a value, and never carries a command out.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::LazyLock;

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::{durable, remote};
use crate::config::{self, Listed, Section};

const EXAMPLES: &str = "\
Examples:
  gannet --dev                                   try it out: http://127.0.0.1:8000
  gannet --config gannet.toml                    serve with a file (TOML, YAML or JSON)
  gannet check -c gannet.toml                    is the configuration sound?
  gannet init gannet.toml                        a short file to start from, with secrets of its own
  gannet config                                  every option, explained
  gannet token connection --user 42              a token for user 42, to connect with
  gannet doctor --clients 1000000                what does this host lack for a million clients?
  gannet sub news                                shows what comes; gannet pub news hello sends
  gannet top                                     a live table of a running server

Every option can be given in three ways, the later one wins:
  in the file           [client]
                        ping_interval = \"25s\"
  in the environment    GANNET_CLIENT_PING_INTERVAL=25s
  as a flag             --client.ping_interval 25s";

const SHORT_HINT: &str = "\
Examples:
  gannet --dev                     try it out: http://127.0.0.1:8000
  gannet --config gannet.toml      serve with a file (TOML, YAML or JSON)

Every option of the configuration is a flag as well: --help lists them.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  gannet token connection --user 42 -c gannet.toml
  gannet token connection --user 42 --ttl 5m --info '{\"name\": \"Ada\"}' --channels news,chat:lobby
  gannet token subscription --user 42 --channel '$chat:room' -c gannet.toml
  gannet token check \"$TOKEN\" -c gannet.toml
  GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY=... gannet token connection --user ''      the anonymous user

Without a word behind it, `gannet token` makes a connection token. All need the server's own configuration.";

const CONFIG_EXAMPLES: &str = "\
Examples:
  gannet config                                  every option with what it does and its default
  gannet config -c gannet.toml --format yaml     what is in force, as YAML
  gannet config --schema > gannet.schema.json    for editors: completion and a mark at what is wrong";

const INIT_EXAMPLES: &str = "\
Examples:
  gannet init                                    writes gannet.toml
  gannet init /etc/gannet/gannet.yaml --origin https://example.com
  gannet init -                                  prints it

Then: gannet check -c gannet.toml; gannet -c gannet.toml";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  gannet doctor                                  how many clients, and what binds first?
  gannet doctor --clients 1000000                what is missing for a million, and the commands
  gannet doctor --pid $(pidof gannet)            with the limits that the running server has
  gannet doctor --clients 1000000 --sources 20   this host runs the load test's clients as well
  gannet doctor --json | jq .clients             for machines
  gannet doctor --engine -c gannet.toml          is Redis there, how is it set, and what to change?

It reads, and changes nothing; tuning/apply changes kernel keys, and can undo it.
Exit status: 0 if --clients, or client.connection_limit, fit; 1 if not; 2 if it cannot be told.";

/// Clap wants names that live as long as the process.
static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(config::sections);

fn options() -> impl Iterator<Item = &'static Listed> {
    SECTIONS.iter().flat_map(|section| &section.options)
}

/// The whole command line.
pub fn command() -> Command {
    let root = Command::new("gannet")
        .version(env!("CARGO_PKG_VERSION"))
        .about("An edge WebSocket server for very many clients, over the Centrifugal client protocol")
        .long_about(
            "Gannet holds very many WebSocket clients on one host and fans messages out to them. It speaks \
             the Centrifugal client protocol, so that the Centrifugal client libraries work with it, and \
             backends publish over HTTP. Without a command it serves.",
        )
        .after_help(SHORT_HINT)
        .after_long_help(EXAMPLES)
        .disable_help_subcommand(true)
        .override_usage("gannet [COMMAND] [--config FILE] [OPTIONS]");
    with_options(root)
        .subcommand(with_options(Command::new("serve").about("Serve clients (what no command does)")))
        .subcommand(init())
        .subcommand(configured(check()))
        .subcommand(configured(config_command()))
        .subcommand(configured(token()))
        .subcommand(configured(doctor()))
        .subcommand(durable::command(configured))
        .subcommands(remote::flags::commands().into_iter().map(configured))
        .subcommand(completions())
        .subcommand(man())
        .subcommand(Command::new("version").about("Print the version, and how this program was made"))
}

/// Who comes from Centrifugo has its commands in their fingers: what each is called here.
const COMMANDS_OF_CENTRIFUGO: &[(&str, &str)] = &[
    ("checkconfig", "check"),
    ("genconfig", "init"),
    ("defaultconfig", "config"),
    ("configdoc", "config"),
    ("configschema", "config --schema"),
    ("gentoken", "token connection"),
    ("gensubtoken", "token subscription"),
    ("checktoken", "token check"),
    ("checksubtoken", "token check"),
];

/// The command that an error is about, if it is one of Centrifugo's, and the one of ours.
pub fn command_of_centrifugo(error: &clap::Error) -> Option<(&'static str, &'static str)> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    COMMANDS_OF_CENTRIFUGO.iter().find(|(theirs, _)| theirs == word).copied()
}

fn init() -> Command {
    let file = Arg::new("file").value_name("FILE").default_value("gannet.toml");
    Command::new("init")
        .about("Write a short configuration with secrets of its own, to begin with")
        .arg(file.help("Where to: .toml, .yaml or .json; - prints it. A file that is there stays"))
        .arg(
            long("origin", "ORIGIN", "Where the web pages of your application are")
                .default_value("http://localhost:3000"),
        )
        .after_help(INIT_EXAMPLES)
}

fn completions() -> Command {
    let shell = Arg::new("shell").value_name("SHELL").value_parser(value_parser!(Shell)).required(true);
    Command::new("completions")
        .about("Print completions for a shell")
        .arg(shell.help("Which shell they are for"))
        .after_help("Example: gannet completions bash > /usr/share/bash-completion/completions/gannet")
}

fn man() -> Command {
    let folder = Arg::new("folder").value_name("FOLDER").required(true).help("Where the pages go");
    Command::new("man")
        .about("Write pages for man, one for each command")
        .arg(folder)
        .after_help("Example: gannet man /usr/local/share/man/man1 && man gannet-token")
}

fn check() -> Command {
    Command::new("check").about("Check the configuration: print its warnings, or every problem and exit with 2")
}

fn config_command() -> Command {
    let formats = PossibleValuesParser::new(["toml", "yaml", "json"]);
    Command::new("config")
        .about("Print the configuration in force, every option explained; secrets are not shown")
        .arg(long("format", "FORMAT", "JSON has no comments").value_parser(formats).default_value("toml"))
        .arg(Arg::new("schema").long("schema").help("Its JSON Schema instead, for editors").action(ArgAction::SetTrue))
        .after_help(CONFIG_EXAMPLES)
}

fn token() -> Command {
    let about = "Make a connection token, signed with client.token.hmac_secret_key";
    let connection = configured(connection_claims(Command::new("connection").about(about)));
    let subscription = Command::new("subscription")
        .about("Make a token for one channel, signed with the key for subscription tokens")
        .arg(long("channel", "CHANNEL", "The channel to subscribe to").required(true))
        .arg(long("client", "ID", "The one client it is for"))
        .arg(long("data", "JSON", "What the client gets with the answer"));
    let check = Command::new("check")
        .about("Would the server take this token? Exit status: 0 if so; 1 if not; 2 if it cannot be told")
        .arg(Arg::new("token").value_name("TOKEN").help("A connection or subscription token").required(true))
        .arg(long("jwks", "FILE", "The key set that the jwks_public_endpoint would give"));
    connection_claims(Command::new("token"))
        .about("Make and check tokens (JWT)")
        .after_help(TOKEN_EXAMPLES)
        .subcommand_negates_reqs(true)
        .subcommand(connection)
        .subcommand(configured(claims(subscription, "What others in the channel may see of the client")))
        .subcommand(configured(check))
}

fn connection_claims(command: Command) -> Command {
    claims(command, "What others may see of the client")
        .arg(long("channels", "LIST", "Channels to subscribe the client to: a,b").value_delimiter(','))
        .arg(long("meta", "JSON", "What only the server may see"))
}

/// What both kinds of token have.
fn claims(command: Command, info: &'static str) -> Command {
    let algorithms = PossibleValuesParser::new(["HS256", "HS384", "HS512"]);
    let ttl = long("ttl", "DURATION", "Life of the token; 0 = it never expires").default_value("7d");
    command
        .arg(long("user", "USER", "The user; '' = anonymous").required(true))
        .arg(ttl.visible_alias("expires-in"))
        .arg(long("info", "JSON", info))
        .arg(long("aud", "TEXT", "Its audience [default: the one that is configured]"))
        .arg(long("iss", "TEXT", "Its issuer [default: the one that is configured]"))
        .arg(long("alg", "ALG", "Signature").value_parser(algorithms).default_value("HS256"))
}

fn doctor() -> Command {
    let number = |name, value, help| long(name, value, help).value_parser(value_parser!(u64).range(1..));
    Command::new("doctor")
        .about("Examine this host: how many clients it can hold, what binds first, what lifts it")
        .after_help(DOCTOR_EXAMPLES)
        .arg(number("clients", "N", "Clients to make room for [default: client.connection_limit]"))
        .arg(number("sources", "N", "The load test's clients run here too, from so many source addresses"))
        .arg(long("pid", "PID", "With the limits of this process, not this shell's").value_parser(value_parser!(u32)))
        .arg(long("root", "DIR", "Read proc and sys below this directory").default_value("/"))
        .arg(Arg::new("json").long("json").help("Print JSON").action(ArgAction::SetTrue))
        .arg(Arg::new("engine").long("engine").help("Examine the engine's servers instead").action(ArgAction::SetTrue))
}

fn long(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn with_options(command: Command) -> Command {
    let file = long(
        "config",
        "FILE",
        "Configuration file; also $GANNET_CONFIG. Each option of it is a flag as well: see gannet --help",
    )
    .short('c');
    let mut command = command.arg(file);
    for section in SECTIONS.iter() {
        let heading = if section.path.is_empty() { "General" } else { section.about };
        command = command.next_help_heading(heading).args(section.options.iter().map(flag));
    }
    command
}

/// A command that reads the configuration: each option is a flag of it as well, which its own help leaves out.
fn configured(command: Command) -> Command {
    let names: BTreeSet<&str> = options().map(|option| option.name.as_str()).collect();
    with_options(command).mut_args(|arg| if names.contains(arg.get_id().as_str()) { arg.hide(true) } else { arg })
}

fn flag(option: &'static Listed) -> Arg {
    let advice = if option.is_secret() { " As a flag it shows in `ps`: rather use the file." } else { "" };
    let arg = Arg::new(option.name.as_str())
        .long(option.name.as_str())
        .value_name(option.kind)
        .help(format!("{}{advice} [{}]", option.about, config::note(option)))
        .hide_short_help(true)
        .action(ArgAction::Set);
    // As Centrifugo has them.
    let arg = match option.name.as_str() {
        "http_server.address" => arg.short('a'),
        "http_server.port" => arg.short('p'),
        _ => arg,
    };
    match option.kind {
        "BOOL" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}

/// The options that were given, by name, as they were given.
pub fn given(matches: &ArgMatches) -> Vec<(String, String)> {
    let text = |name: &str| {
        let set = matches.value_source(name) == Some(ValueSource::CommandLine);
        let value = set.then(|| matches.get_one::<String>(name)).flatten();
        value.map(|value| (name.to_owned(), value.clone()))
    };
    options().filter_map(|option| text(&option.name)).collect()
}

/// `--echo.enabled false` becomes `--echo.enabled=false`: a boolean flag may stand alone, so clap takes a
/// value only after `=`, but no command is called `true` or `false`, so what is meant is clear. The same for a
/// key in PEM, which begins with dashes and would be taken for a flag.
pub fn join_values(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let is_boolean = |flag: &str| options().any(|option| option.kind == "BOOL" && option.name == flag);
    let mut joined: Vec<OsString> = Vec::new();
    for arg in args {
        let flag = joined.last().and_then(|last| last.to_str()).and_then(|last| last.strip_prefix("--"));
        let belongs = flag.is_some_and(|flag| {
            let is_pem = arg.to_str().is_some_and(|arg| arg.starts_with("-----BEGIN "));
            (is_pem && !flag.contains('=')) || ((arg == "true" || arg == "false") && is_boolean(flag))
        });
        match joined.last_mut() {
            Some(last) if belongs => {
                last.push("=");
                last.push(arg);
            }
            _ => joined.push(arg),
        }
    }
    joined
}

/// Takes out the long flags that no command has, with their values, so that all of them can be told of at
/// once and with the nearest name: clap would stop at the first.
pub fn take_unknown(args: impl Iterator<Item = OsString>) -> (Vec<OsString>, Vec<(String, String)>) {
    let command = command();
    let mut every = vec![&command];
    let mut at = 0;
    while let Some(parent) = every.get(at).copied() {
        every.extend(parent.get_subcommands());
        at += 1;
    }
    let commands: BTreeSet<&str> = every.iter().skip(1).map(|command| command.get_name()).collect();
    let arguments = every.iter().flat_map(|command| command.get_arguments());
    let known = arguments.filter_map(Arg::get_long_and_visible_aliases).flatten();
    let known: BTreeSet<&str> = known.chain(["help", "version"]).collect();

    let (mut rest, mut unknown) = (Vec::new(), Vec::new());
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let flag = arg.to_str().and_then(|text| text.strip_prefix("--"));
        let (name, value) = match flag.map(|flag| (flag, flag.split_once('='))) {
            Some((_, Some((name, value)))) => (name, Some(value.to_owned())),
            Some((name, None)) => (name, None),
            None => ("", None),
        };
        if name.is_empty() || known.contains(name) {
            rest.push(arg);
            continue;
        }
        let is_value = |next: &OsString| next.to_str().is_some_and(|n| !n.starts_with('-') && !commands.contains(n));
        let value = value.or_else(|| args.next_if(is_value)?.into_string().ok());
        // One that stands alone says yes: Centrifugo's switches do.
        unknown.push((name.to_owned(), value.unwrap_or_else(|| "true".to_owned())));
    }
    (rest, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> (Vec<OsString>, Vec<(String, String)>) {
        take_unknown(line.split(' ').map(OsString::from))
    }

    #[test]
    fn clap_finds_no_fault_with_it() {
        command().debug_assert();
    }

    #[test]
    fn unknown_flags_are_taken_out_with_their_values() {
        let (rest, unknown) = split("gannet --colour blue --reactors 2 --x.y=1 check --verbose --config a.toml");
        assert_eq!(rest, ["gannet", "--reactors", "2", "check", "--config", "a.toml"].map(OsString::from));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(unknown, [pair("colour", "blue"), pair("x.y", "1"), pair("verbose", "true")]);
        let (rest, unknown) = split("gannet --verbose check --help");
        assert_eq!(rest, ["gannet", "check", "--help"].map(OsString::from));
        assert_eq!(unknown, [pair("verbose", "true")]);
    }

    #[test]
    fn only_what_was_given_is_given() {
        let line = ["gannet", "--echo.enabled", "--dev=false", "--client.ping_interval=5s"];
        let matches = command().try_get_matches_from(line).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [pair("dev", "false"), pair("echo.enabled", "true"), pair("client.ping_interval", "5s")];
        assert_eq!(given(&matches), expected);
    }
}
