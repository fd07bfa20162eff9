//! The options of the controller and of agents. Never judges what they mean together.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

const CONTROLLER_EXAMPLES: &str = "\
Examples:
  140,000 clients on a host whose processes may have 20,000 descriptors each:
    gannet-loadgen controller --local 8 idle ws://127.0.0.1:8000/connection/websocket --clients 140000
  Two other hosts make the load. On each of them, once:
    gannet-loadgen agent --listen 10.0.0.5:7070 --secret-file secret --i-own-this-target
  and then, as often as you like:
    gannet-loadgen controller --agents 10.0.0.5:7070,10.0.0.6:7070 --secret-file secret \\
        fanout ws://10.0.0.9:8000/connection/websocket --subscribers 30000 --rate 20 --i-own-this-target
  Over a network you do not trust (what is said to agents is signed only at the beginning, and never encrypted):
    ssh -L 7070:127.0.0.1:7070 there gannet-loadgen agent --listen 127.0.0.1:7070 --until-eof

What counts as without agents: rates and clients are those of the whole scenario, and are shared out; --threads and \
--opening are those of each agent. The report's files are written here, --pid is a process of this host, and --metrics \
is asked from here.

If an agent is lost on the way, the others go on. The result says which, when, and what is therefore missing, and the \
exit status is 1. If one cannot be reached at the start nothing begins, and the exit status is 2.";

const AGENT_EXAMPLES: &str = "\
Examples:
  For a controller on this host (or at the other end of a tunnel):
    gannet-loadgen agent --listen 127.0.0.1:7070
  For a controller on another host, to load a third one:
    head -c 32 /dev/urandom | base64 > secret    # the same file for the controller
    gannet-loadgen agent --listen 10.0.0.5:7070 --secret-file secret --i-own-this-target

Whoever may command an agent may have it make load, with the scenario's own options and nothing else: it reads no \
file, writes none and starts no program. That is why it asks for a secret where others can reach it, and aims at \
nothing but its own host unless whoever started it said otherwise.";

/// Shares a scenario among agents, and reports as if one process had played it
#[derive(Debug, Args)]
#[command(after_help = CONTROLLER_EXAMPLES)]
pub struct ControllerOptions {
    /// Agents that wait there (see gannet-loadgen agent --help)
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub agents: Vec<String>,
    /// Starts so many agents on this host, each a process with descriptors of its own; they end with this one. May be
    /// combined with --agents
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub local: u32,
    #[command(flatten)]
    pub secret: SecretOptions,
    /// The scenario with its URL and options, as without agents
    #[arg(value_name = "SCENARIO", required = true, num_args = 1.., trailing_var_arg = true)]
    pub words: Vec<String>,
}

/// Waits for a controller and plays its part of a scenario, then waits for the next
#[derive(Debug, Args)]
#[command(after_help = AGENT_EXAMPLES)]
pub struct AgentOptions {
    /// Where to wait for a controller; with port 0 the system picks one. Anything but loopback needs a secret
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub secret: SecretOptions,
    /// Controllers may aim at targets that are not on this host: they are mine to load
    #[arg(long)]
    pub i_own_this_target: bool,
    /// Ends after one job
    #[arg(long)]
    pub once: bool,
    /// Ends when its standard input does, so that it does not outlive who started it (over ssh, for example)
    #[arg(long)]
    pub until_eof: bool,
    /// Nothing on stderr about who comes and goes
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct SecretOptions {
    /// A file with the secret that controller and agents share, at least 16 characters; without it the environment
    /// variable GANNET_LOADGEN_SECRET. Each proves to the other that it knows it; it is never sent
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}
