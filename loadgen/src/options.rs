//! The command line as typed: scenarios, options, help texts with examples. Never judges what they mean together.

use std::ffi::OsString;
use std::iter;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::agents::options::{AgentOptions, ControllerOptions};

const EXAMPLES: &str = "\
Examples:
  Something to aim at:
    gannet --dev --echo.enabled
  What does a quiet client cost the server?
    gannet-loadgen idle ws://127.0.0.1:8000/connection/websocket --clients 10000 --pid $(pidof gannet)
  How fast does one message come back?
    gannet-loadgen echo ws://127.0.0.1:8000/echo --clients 50 --duration 10s
  One publisher, 5,000 subscribers, 20 messages a second, in Protobuf:
    gannet-loadgen fanout ws://127.0.0.1:8000/connection/websocket --subscribers 5000 --rate 20 --protobuf
  Rooms of ten, everyone speaks every two seconds:
    gannet-loadgen chat ws://127.0.0.1:8000/connection/websocket --clients 2000 --room 10 --every 2s
  Everyone comes back at once:
    gannet-loadgen storm ws://127.0.0.1:8000/connection/websocket --clients 5000 --rounds 3
  And does everyone have what they missed? (The server must keep a history.)
    gannet-loadgen storm ws://127.0.0.1:8000/connection/websocket --clients 5000 --recover --away 5s
  Everyone comes back at once over TLS, each with a whole handshake:
    gannet-loadgen storm wss://localhost:8000/connection/websocket --clients 5000 --ca ca.pem
  Where is the knee?
    gannet-loadgen ramp ws://127.0.0.1:8000/echo --start 500 --step 500 --max 5000 --every 5s
  More clients than one process may have descriptors, or than one host can play:
    gannet-loadgen controller --local 8 idle ws://127.0.0.1:8000/connection/websocket --clients 140000

How to read a report: latency counts from when a message was due, not from when it got out, so a server that stalls \
cannot hide it. Where own lateness is large, or own cpu near 100%, the generator is the limit: give it more --threads or \
another host before you blame the server.

  gannet-loadgen SCENARIO --help explains a scenario and every option.

Exit status: 0 the goal was reached; 1 it was not (the last lines say why); 2 the command line is wrong, or the run \
could not begin.

A load generator is a weapon: a target that is not on this host needs --i-own-this-target.";

const PLACES: &str = "Where to and who";
const PACE: &str = "Pace and bounds";
const GOAL: &str = "Goal and report";
const RAW: &str = "Profile raw";

/// Puts load on a WebSocket server and measures what comes back
#[derive(Debug, Parser)]
#[command(name = "gannet-loadgen", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Scenario(Box<Scenario>),
    Controller(ControllerOptions),
    Agent(AgentOptions),
}

/// The scenario that words behind the program's name ask for.
pub fn scenario_of<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Scenario, clap::Error> {
    let words = words.into_iter().map(Into::into);
    match Options::try_parse_from(iter::once(OsString::from("gannet-loadgen")).chain(words))?.command {
        Command::Scenario(scenario) => Ok(*scenario),
        _ => {
            let text = "only a scenario can be shared among agents; gannet-loadgen --help lists them";
            Err(Options::command().error(ErrorKind::InvalidSubcommand, text))
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// N clients connect, stay, and answer pings
    ///
    /// The goal is missed if anyone cannot connect, or is cut off. With --pid or --metrics the report says what each
    /// client costs.
    #[command(after_help = "Example: gannet-loadgen idle ws://127.0.0.1:8000/connection/websocket --clients 10000 \
        --channels 10000 --duration 60s --pid $(pidof gannet)")]
    Idle(Idle),
    /// Each client's messages come back to it alone: one in flight, or at a rate
    ///
    /// With profile raw the server must be an echo server. With profile centrifugal each client subscribes to a
    /// channel of its own and publishes to it.
    #[command(after_help = "Example: gannet-loadgen echo ws://127.0.0.1:8000/echo --clients 100 --rate 20000")]
    Echo(Echo),
    /// Publishers, subscribers, channels: everyone must get everything of their channels
    ///
    /// Subscribers listen, publishers publish on a schedule whatever comes back. The goal is missed if a subscriber
    /// lacks a message of its channels (see --min-delivery), or gets one twice.
    #[command(after_help = "Example: gannet-loadgen fanout ws://127.0.0.1:8000/connection/websocket --publishers 10 \
        --subscribers 2000 --channels 10 --rate 100\n\nAny other server, its own words:\n  gannet-loadgen fanout \
        ws://127.0.0.1:9001/ --subscribe-message '{\"join\":\"{channel}\"}' \
        --publish-message '{\"to\":\"{channel}\",\"text\":\"{payload}\"}'")]
    Fanout(Fanout),
    /// Rooms whose members all speak
    ///
    /// The goal is missed if a member lacks a message of its room, its own included (but see --not-to-self), or gets one
    /// twice.
    #[command(after_help = "Example: gannet-loadgen chat ws://127.0.0.1:8000/connection/websocket --clients 1000 \
        --room 10 --every 1s")]
    Chat(Chat),
    /// Everyone is cut off and comes back at once
    ///
    /// Connections are reset, as when a host dies. Clients that fail to come back try again, later each time, as the
    /// official clients do. The goal is missed if not everyone is back in --duration, or, with --recover, not everyone
    /// with all they missed.
    #[command(after_help = "Example: gannet-loadgen storm ws://127.0.0.1:8000/connection/websocket --clients 5000 \
        --rounds 3\n\nWhat was said while clients were away must reach them all when they are back, nothing lost and \
        nothing twice:\n  gannet --client.insecure --channel.without_namespace.history_size 300 \\\n    \
        --channel.without_namespace.history_ttl 10m --channel.without_namespace.force_recovery &\n  \
        gannet-loadgen storm ws://127.0.0.1:8000/connection/websocket \\\n    \
        --clients 5000 --channels 10 --recover --rate 50")]
    Storm(Storm),
    /// Clients come and go at a rate
    ///
    /// Clients take turns to leave with a close frame, and come back at once as new connections. The goal is missed if a
    /// connection fails or is lost, or, with --recover, if a message is.
    #[command(after_help = "Example: gannet-loadgen churn ws://127.0.0.1:8000/connection/websocket --clients 1000 \
        --rate 200 --duration 30s")]
    Churn(Churn),
    /// Some readers stall: do the others still get everything in time?
    ///
    /// One publisher, one channel. Stalled readers are owed nothing, and the report says how many the server cut off. The
    /// goal is missed if another reader lacks a message, or is cut off.
    #[command(after_help = "Example: gannet-loadgen slow ws://127.0.0.1:8000/connection/websocket --clients 200 \
        --stalled 20 --rate 500 --size 2000")]
    Slow(Slow),
    /// More and more clients echo at a rate: find the knee
    ///
    /// Clients come in steps. A step is beyond the knee if its p99 is above --knee, if messages are missing, or if
    /// connections fail. The goal is missed if the first step is beyond it already.
    #[command(after_help = "Example: gannet-loadgen ramp ws://127.0.0.1:8000/echo --start 500 --step 500 --max 5000 \
        --every 5s --each 1 --knee 50ms")]
    Ramp(Ramp),
}

#[derive(Debug, Args)]
pub struct Idle {
    #[command(flatten)]
    pub common: Common,
    /// Clients that connect
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub clients: u32,
    /// Each client subscribes to one of so many channels; 0 = to none
    #[arg(long, default_value_t = 0, value_parser = count)]
    pub channels: u32,
}

#[derive(Debug, Args)]
pub struct Echo {
    #[command(flatten)]
    pub common: Common,
    /// Clients that speak, each to itself
    #[arg(long, default_value_t = 100, value_parser = count)]
    pub clients: u32,
    /// Messages a second of all clients together, on a schedule; without it each client has one message in flight
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: Option<f64>,
}

#[derive(Debug, Args)]
pub struct Fanout {
    #[command(flatten)]
    pub common: Common,
    /// Clients that publish and do not subscribe; the n-th publishes to channel n modulo the channels
    #[arg(long, default_value_t = 1, value_parser = count)]
    pub publishers: u32,
    /// Clients that listen
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub subscribers: u32,
    /// Channels in all, with the names load-0, load-1, ... (see --channel-prefix)
    #[arg(long, default_value_t = 1, value_parser = count)]
    pub channels: u32,
    /// Channels each subscriber has
    #[arg(long, default_value_t = 1, value_name = "CHANNELS")]
    pub subscriptions: u32,
    /// Messages a second of all publishers together
    #[arg(long, default_value_t = 10.0, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: f64,
    /// Where publishers connect to, if not where subscribers do
    #[arg(long, value_name = "URL", help_heading = RAW)]
    pub publisher_url: Option<String>,
}

#[derive(Debug, Args)]
pub struct Chat {
    #[command(flatten)]
    pub common: Common,
    /// Members of all rooms together
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub clients: u32,
    /// Members of a room
    #[arg(long, default_value_t = 10, value_name = "MEMBERS")]
    pub room: u32,
    /// Each member speaks once in this time
    #[arg(long, default_value = "1s", value_parser = time, value_name = "DURATION")]
    pub every: Duration,
    /// The server does not send a message back to who said it
    #[arg(long)]
    pub not_to_self: bool,
}

#[derive(Debug, Args)]
pub struct Storm {
    #[command(flatten)]
    pub common: Common,
    /// Clients that connect
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub clients: u32,
    /// Each client subscribes to one of so many channels; 0 = to none
    #[arg(long, default_value_t = 0, value_parser = count)]
    pub channels: u32,
    /// How many times everyone is cut
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Time between two rounds; with --recover also before the first and after the last
    #[arg(long, default_value = "1s", value_parser = time, value_name = "DURATION")]
    pub pause: Duration,
    /// Clients stay away for so long before they come back [default: 0s; with --recover 1s]
    #[arg(long, value_parser = time, value_name = "DURATION")]
    pub away: Option<Duration>,
    /// Clients that come back ask for what they missed, and everyone must get everything once: each channel (--channels,
    /// at least 1) has a publisher of its own that stays. The channels need a history on the server: in gannet
    /// history_size, history_ttl and force_recovery
    #[arg(long)]
    pub recover: bool,
    /// With --recover: publications a second in all channels together
    #[arg(long, default_value_t = 10.0, value_name = "PER_SECOND", value_parser = positive, requires = "recover")]
    pub rate: f64,
}

#[derive(Debug, Args)]
pub struct Churn {
    #[command(flatten)]
    pub common: Common,
    /// Clients there at any time
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub clients: u32,
    /// Each client subscribes to one of so many channels; 0 = to none
    #[arg(long, default_value_t = 0, value_parser = count)]
    pub channels: u32,
    /// Clients a second that leave and come back
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: f64,
    /// Clients that come back ask for what they missed, as in storm
    #[arg(long)]
    pub recover: bool,
    /// With --recover: publications a second in all channels together
    #[arg(long, default_value_t = 10.0, value_name = "PER_SECOND", value_parser = positive, requires = "recover")]
    pub publish_rate: f64,
}

#[derive(Debug, Args)]
pub struct Slow {
    #[command(flatten)]
    pub common: Common,
    /// Subscribers of one channel, the stalled ones among them
    #[arg(long, default_value_t = 200, value_parser = count)]
    pub clients: u32,
    /// Subscribers that stop reading
    #[arg(long, default_value_t = 20, value_parser = count)]
    pub stalled: u32,
    /// They read on after this; without it they stall to the end
    #[arg(long, value_parser = time, value_name = "DURATION")]
    pub stall_for: Option<Duration>,
    /// Messages a second to the channel
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: f64,
}

#[derive(Debug, Args)]
pub struct Ramp {
    #[command(flatten)]
    pub common: Common,
    /// Clients in the first step
    #[arg(long, default_value_t = 100, value_parser = count)]
    pub start: u32,
    /// Clients that each step adds
    #[arg(long, default_value_t = 100, value_parser = count)]
    pub step: u32,
    /// Clients in the last step
    #[arg(long, default_value_t = 1000, value_parser = count)]
    pub max: u32,
    /// How long a step lasts
    #[arg(long, default_value = "5s", value_parser = time, value_name = "DURATION")]
    pub every: Duration,
    /// Messages a second of each client
    #[arg(long, default_value_t = 1.0, value_name = "PER_SECOND", value_parser = positive)]
    pub each: f64,
    /// A step whose p99 is above this is beyond the knee
    #[arg(long, default_value = "100ms", value_parser = time, value_name = "DURATION")]
    pub knee: Duration,
}

/// The profile by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileName {
    /// Any WebSocket server: plain messages, or the templates given
    Raw,
    /// The Centrifugal client protocol
    Centrifugal,
}

#[derive(Debug, Args)]
pub struct Common {
    /// ws://host:port/path, or wss:// for TLS; {client} and {channel} in the path are filled in
    pub url: String,

    /// How to talk; without it centrifugal if the path ends in /connection/websocket, otherwise raw
    #[arg(long, value_enum, help_heading = PLACES)]
    pub profile: Option<ProfileName>,
    /// Centrifugal in Protobuf; otherwise JSON
    #[arg(long, help_heading = PLACES)]
    pub protobuf: bool,
    /// Sign tokens for user-0, user-1, ... with this HMAC secret, the server's (gannet: client.token.hmac_secret_key);
    /// without it clients have no token
    #[arg(long, value_name = "SECRET", help_heading = PLACES)]
    #[arg(env = "GANNET_LOADGEN_TOKEN_SECRET", hide_env_values = true)]
    pub token_secret: Option<String>,
    /// What comes before the number in a user's name
    #[arg(long, default_value = "user-", value_name = "TEXT", help_heading = PLACES)]
    pub user_prefix: String,
    /// What comes before the number in a channel's name
    #[arg(long, default_value = "load-", value_name = "TEXT", help_heading = PLACES)]
    pub channel_prefix: String,
    /// A request header for the upgrade, such as 'Origin: http://127.0.0.1'; may be given again
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header, help_heading = PLACES)]
    pub header: Vec<(String, String)>,
    /// The authorities that wss:// and https:// believe, in PEM; without it, those of this host
    #[arg(long, value_name = "FILE", help_heading = PLACES)]
    pub ca: Option<PathBuf>,
    /// With TLS: whoever answers is believed
    #[arg(long, conflicts_with = "ca", help_heading = PLACES)]
    pub insecure: bool,
    /// The one version of TLS to offer; without it, both
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"], help_heading = PLACES)]
    pub tls_version: Option<String>,
    /// Addresses to connect from; without it, all over 127.0.0.0/8 for a target there
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', help_heading = PLACES)]
    pub source: Vec<IpAddr>,
    /// The target is not on this host, and it is mine to load
    #[arg(long, help_heading = PLACES)]
    pub i_own_this_target: bool,

    /// Threads, each a loop with its share of the clients; one reads some 300,000 small messages a second
    #[arg(long, default_value_t = 1, help_heading = PACE)]
    pub threads: u32,
    /// This process is the K-th of N (K/N, from 1) that share the scenario's clients; start all with the same options
    #[arg(long, value_name = "K/N", value_parser = part, help_heading = PACE)]
    pub part: Option<(u32, u32)>,
    /// Connections begun each second; without it, as many as fit under --opening
    #[arg(long, value_name = "PER_SECOND", value_parser = positive, help_heading = PACE)]
    pub connect_rate: Option<f64>,
    /// Connections under way at a time (storm: no limit)
    #[arg(long, default_value_t = 256, value_name = "NUMBER", help_heading = PACE)]
    pub opening: u32,
    /// A connection that has not joined after this has failed
    #[arg(long, default_value = "10s", value_parser = time, value_name = "DURATION", help_heading = PACE)]
    pub connect_timeout: Duration,
    /// How long the scenario plays [default: 10s; storm: at most, 60s and its pauses; ramp: as its steps need]
    #[arg(long, value_parser = time, value_name = "DURATION", help_heading = PACE)]
    pub duration: Option<Duration>,
    /// The first part of it, which latency leaves out
    #[arg(long, default_value = "0s", value_parser = time, value_name = "DURATION", help_heading = PACE)]
    pub warmup: Duration,
    /// The scenario does not play before this moment, in seconds since 1970: parts of one run begin together
    #[arg(long, value_name = "SECONDS", help_heading = PACE)]
    pub start_at: Option<u64>,
    /// Quiet time between the last connection and the first message
    #[arg(long, default_value = "200ms", value_parser = time, value_name = "DURATION", help_heading = PACE)]
    pub settle: Duration,
    /// How long messages may still arrive after the last was sent
    #[arg(long, default_value = "5s", value_parser = time, value_name = "DURATION", help_heading = PACE)]
    pub grace: Duration,
    /// Bytes of a message's payload; at least 44, the stamp it carries
    #[arg(long, default_value_t = 128, value_name = "BYTES", help_heading = PACE)]
    pub size: usize,
    /// The longest message taken from the server
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES", help_heading = PACE)]
    pub message_limit: usize,

    /// Below this share of messages delivered the goal is missed [default: 1 where messages are owed]
    #[arg(long, value_name = "RATIO", help_heading = GOAL)]
    pub min_delivery: Option<f64>,
    /// Above this p99 of latency the goal is missed
    #[arg(long, value_name = "DURATION", value_parser = time, help_heading = GOAL)]
    pub max_p99: Option<Duration>,
    /// The server's process on this host: adds to the report what it spent, and as root what the kernel keeps for each
    /// client; may be given again, or as a list with commas, for the sum of several
    #[arg(long, value_name = "PID", value_delimiter = ',', help_heading = GOAL)]
    pub pid: Vec<u32>,
    /// The server's metrics page, such as http://10.0.0.1:9000/metrics (or https://), for a server on another host: adds processor
    /// time and resident memory (process_cpu_seconds_total, process_resident_memory_bytes); may be given again
    #[arg(long, value_name = "URL", help_heading = GOAL)]
    pub metrics: Vec<String>,
    /// Writes the result as JSON (- = on stdout in place of the table)
    #[arg(long, value_name = "FILE", help_heading = GOAL)]
    pub json: Option<PathBuf>,
    /// Writes latency as an HdrHistogram percentile listing
    #[arg(long, value_name = "FILE", help_heading = GOAL)]
    pub hgrm: Option<PathBuf>,
    /// Writes latency as an HdrHistogram interval log, which can be added to others
    #[arg(long, value_name = "FILE", help_heading = GOAL)]
    pub hlog: Option<PathBuf>,
    /// Writes a page with plots that needs nothing else
    #[arg(long, value_name = "FILE", help_heading = GOAL)]
    pub html: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short, help_heading = GOAL)]
    pub quiet: bool,

    /// What a client sends for each channel it listens to; {client} and {channel} are filled in
    #[arg(long, value_name = "TEXT", help_heading = RAW)]
    pub subscribe_message: Option<String>,
    /// What a speaker sends; {client}, {channel} and {payload} are filled in [default: the payload alone]
    #[arg(long, value_name = "TEXT", help_heading = RAW)]
    pub publish_message: Option<String>,
    /// Binary messages in place of text
    #[arg(long, help_heading = RAW)]
    pub binary: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; durations look like 10s, 500ms or 2m"))
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("a number above 0 is needed".to_owned()),
    }
}

/// A whole number, or so many thousands or millions: 10k, 1M.
fn count(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let wrong = || format!("a number from 0 to {} is needed, such as 5000, 10k or 1M", u32::MAX);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let number = plain.then(|| digits.replace('_', "").parse::<u32>().ok()).flatten();
    number.and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header looks like 'Name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn part(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once('/').and_then(|(k, n)| Some((k.parse::<u32>().ok()?, n.parse::<u32>().ok()?)));
    parsed.filter(|(k, n)| (1..=*n).contains(k)).ok_or_else(|| "a part looks like 2/8, from 1/8 to 8/8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_may_have_a_unit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5000", Some(5000)),
            ("1_000_000", Some(1_000_000)),
            ("10k", Some(10_000)),
            ("1M", Some(1_000_000)),
            ("4m", Some(4_000_000)),
            ("4294967295", Some(u32::MAX)),
            ("4295M", None),
            ("", None),
            ("M", None),
            ("_", None),
            ("-1", None),
            ("+1", None),
            ("1.5M", None),
            ("1 k", None),
            ("1G", None),
        ] {
            assert_eq!(count(text).ok(), expected, "{text:?}");
        }
    }
}
