//! F11 · The flags of the commands that talk to a running server.

use clap::{Arg, ArgAction, Command, value_parser};

const PUB_EXAMPLES: &str = "\
Examples:
  gannet pub news '{\"text\": \"hello\"}'
  gannet pub news hello                          no JSON: it is sent as a text
  tail -f log | gannet pub log -                 a message for each line
  gannet pub news 1 --url https://example.com --key \"$KEY\"";

const SUB_EXAMPLES: &str = "\
Examples:
  gannet sub news                                shows messages as they come
  gannet sub news scores --json | jq .data
  gannet sub news --token \"$TOKEN\" --url wss://example.com
  gannet sub news --recover                      connects again and asks for what was missed

Without --token, one is signed with the configured client.token.hmac_secret_key, if there is one.
It ends with --count, with Ctrl-C, or with 2 when the server wants it not to come back.";

const TOP_EXAMPLES: &str = "\
Examples:
  gannet top                                     every two seconds, until Ctrl-C
  gannet top --interval 10s --json               a line of JSON each time
  gannet top --count 1                           once: the rates are those since the start";

const WHERE: &str = "\
The server is where the configuration (-c, the environment) would have it listen; the key is http_api.key.";

/// All of them, without the flags that every command with a configuration has.
pub fn commands() -> Vec<Command> {
    let pattern = word("pattern", "PATTERN", "Only channels that match this glob");
    let limit = number("limit", "COUNT", "At most so many").default_value("10");
    let reverse = switch("reverse", "The latest first");
    vec![
        api(publish()),
        place(subscribe()),
        api(Command::new("presence").about("Show who is in a channel, with a running server"))
            .arg(channel())
            .after_help(WHERE),
        api(Command::new("history").about("Show what a channel keeps, with a running server"))
            .args([channel(), limit, reverse])
            .after_help(WHERE),
        api(Command::new("channels").about("List the channels that have subscribers, with a running server"))
            .arg(pattern)
            .after_help(WHERE),
        api(Command::new("info").about("Show the nodes of a running server")).after_help(WHERE),
        api(Command::new("top").about("Watch a running server: a live table of nodes and channels"))
            .arg(long("interval", "DURATION", "How often it looks").default_value("2s"))
            .arg(number("count", "COUNT", "Ends after so many looks"))
            .arg(number("channels", "COUNT", "So many channels; 0 asks for none").default_value("10"))
            .after_help(TOP_EXAMPLES),
    ]
}

fn publish() -> Command {
    Command::new("pub")
        .about("Publish to a channel of a running server")
        .arg(channel())
        .arg(word("data", "DATA", "JSON, or a text; - = each line of standard input").required(true))
        .arg(long("tag", "NAME=VALUE", "A tag that goes along").action(ArgAction::Append))
        .arg(switch("skip-history", "It is sent and not kept"))
        .after_help(PUB_EXAMPLES)
}

fn subscribe() -> Command {
    Command::new("sub")
        .about("Subscribe to channels of a running server and show messages as they come")
        .arg(channel().num_args(1..))
        .arg(long("token", "TOKEN", "A connection token; as a flag it shows in `ps`"))
        .arg(long("user", "USER", "The user of a token that is made").default_value("gannet-sub"))
        .arg(switch("recover", "Connect again when the connection is lost, and ask for what was missed"))
        .arg(number("count", "COUNT", "Ends after so many messages"))
        .after_help(SUB_EXAMPLES)
}

fn api(command: Command) -> Command {
    place(command).arg(long("key", "KEY", "The key of its API; as a flag it shows in `ps`"))
}

fn place(command: Command) -> Command {
    command
        .arg(long("url", "URL", "Where the server is: http://HOST:PORT, https://HOST, or with a path before its own"))
        .arg(long("ca", "FILE", "Certificates (PEM) of the authority that its own is from, if not of this host's"))
        .arg(switch("json", "JSON, for machines"))
}

fn channel() -> Arg {
    word("channel", "CHANNEL", "The channel's name").required(true)
}

fn word(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(value).help(help).allow_negative_numbers(true)
}

fn long(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn number(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    long(name, value, help).value_parser(value_parser!(u64))
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}
