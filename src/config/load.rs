//! F0 · From a file, variables and flags to one configuration, or to every problem with them.
//!
//! Owns precedence (file below environment below flags) and the names of the three sources in messages.
//! A name that is no option is refused wherever it stands. Never reads a file, the environment or the
//! command line: all three are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use super::check::{Problem, Warning};
use super::foreign::{self, Disposition};
use super::registry::{self, env_name, join};
use super::tree::{self, Format};
use super::value::{Given, ValueFault};
use super::variables::{self, NamedList, Variable};
use super::{Config, go, unknown};

/// The configuration file: its name tells the format.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Default,
    File(String),
    Environment,
    CommandLine,
}

impl Place {
    /// The option's name as it is written there.
    fn spell(&self, name: &str) -> String {
        match self {
            Place::Default | Place::File(_) => name.to_owned(),
            Place::Environment => env_name(name),
            Place::CommandLine => format!("--{name}"),
        }
    }
}

/// One problem, printed as one line: `gannet.toml: client.ping_interval: expected a duration ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub place: Place,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        match &self.place {
            Place::Default => write!(f, "{message}"),
            Place::File(name) => write!(f, "{name}: {message}"),
            Place::Environment => write!(f, "environment: {message}"),
            Place::CommandLine => write!(f, "command line: {message}"),
        }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        about(Place::Default, problem)
    }
}

fn about(place: Place, problem: Problem) -> ConfigError {
    let message = format!("{}{}: {}", place.spell(&problem.option), problem.at, problem.message);
    ConfigError { place, message }
}

/// `env` is the environment: only `GANNET_*` is read, and of `CENTRIFUGO_*` it is told that it is not. `flags` are the
/// dotted options of the command line without their dashes. What comes back has passed `Config::check`; else every
/// problem found.
pub fn load(
    file: Option<File<'_>>,
    env: &[(String, String)],
    flags: &[(String, String)],
) -> Result<(Config, Vec<Warning>), Vec<ConfigError>> {
    let (result, warnings) = examine(file, env, flags);
    result.map(|config| (config, warnings))
}

/// The same, with the warnings in either case.
pub fn examine(
    file: Option<File<'_>>,
    env: &[(String, String)],
    flags: &[(String, String)],
) -> (Result<Config, Vec<ConfigError>>, Vec<Warning>) {
    let mut loader = Loader::default();
    if let Some(file) = file {
        loader.file(file, env);
    }
    loader.env(env);
    for (name, value) in flags {
        loader.set(Place::CommandLine, name, name, Given::Text(value));
    }
    loader.finish()
}

#[derive(Default)]
struct Loader {
    config: Config,
    /// Where each option that was set was set last.
    places: BTreeMap<String, Place>,
    errors: Vec<ConfigError>,
    /// What was given and has no effect.
    notes: Vec<Warning>,
    /// Options whose value could not be read, so that they have one that their operator did not mean.
    unread: BTreeSet<String>,
    /// The file could not be read, so that no option need be as it was meant.
    blind: bool,
}

impl Loader {
    fn file(&mut self, file: File<'_>, env: &[(String, String)]) {
        let place = Place::File(file.name.to_owned());
        let tree = match Format::of(file.name) {
            Some(format) => tree::parse(file.text, format),
            None => Err("expected a file name that ends in .toml, .yaml, .yml or .json".into()),
        };
        match tree {
            Ok(mut tree) => {
                for variable in variables::expand(&mut tree, env) {
                    let message = format!("static_headers: the environment has no variable {variable}");
                    self.errors.push(ConfigError { place: place.clone(), message });
                }
                self.descend(&place, "", &tree);
            }
            Err(message) => {
                self.blind = true;
                self.errors.push(ConfigError { place, message });
            }
        }
    }

    /// Sets what `tree`, the section at `path`, has.
    fn descend(&mut self, place: &Place, path: &str, tree: &Json) {
        let Json::Object(fields) = tree else {
            // A section with nothing but comments in it is null in YAML. What stands here instead is not quoted:
            // it may be a secret that missed its key.
            if !tree.is_null() {
                let section = if path.is_empty() { String::new() } else { format!("{path}: ") };
                let message = format!("{section}expected a section with options");
                self.errors.push(ConfigError { place: place.clone(), message });
            }
            return;
        };
        for (key, value) in fields {
            let name = join(path, key);
            let group = value.is_object() && foreign::is_group(&name);
            if registry::is_section(&name) || group {
                self.descend(place, &name, value);
            } else {
                self.set(place.clone(), &name, &name, Given::Tree(value));
            }
        }
    }

    fn env(&mut self, env: &[(String, String)]) {
        let options: Vec<String> = registry::options().into_iter().map(|option| option.name).collect();
        let mut items = Vec::new();
        // A variable that is empty is not set.
        for (name, value) in env.iter().filter(|(_, value)| !value.is_empty()) {
            match variables::variable(name, value, &options) {
                None | Some(Variable::Skipped) => {}
                Some(Variable::Option(option)) => self.set(Place::Environment, &option, name, Given::Text(value)),
                Some(Variable::Item(list, rest)) => items.push((list, rest, name, value)),
                Some(Variable::Unknown(dotless)) => self.set(Place::Environment, &dotless, name, Given::Text(value)),
                Some(Variable::Stray(dotless)) => {
                    let message = unknown::option(&dotless, name, |option| Place::Environment.spell(option));
                    self.note(name, format!("not read: {message}"));
                }
            }
        }
        // Their lists are there only now.
        for (list, rest, name, value) in items {
            self.set_item(list, &rest, name, value);
        }
        let theirs = env.iter().filter(|(name, value)| {
            let rest = name.strip_prefix("CENTRIFUGO_");
            rest.is_some_and(|rest| !rest.starts_with("VAR_") && !variables::is_service_link(rest, value))
        });
        let theirs: Vec<_> = theirs.map(|(variable, _)| variable.as_str()).collect();
        self.note_variables(&theirs, "are Centrifugo's; here they begin with GANNET_, and most go on in the same way");
    }

    fn set_item(&mut self, list: NamedList, rest: &str, variable: &str, value: &str) {
        let faults = variables::set_item(&mut self.config, list, rest, value).err().unwrap_or_default();
        if !faults.is_empty() {
            self.unread.insert(list.option().to_owned());
        }
        for ValueFault { at, message } in faults {
            let message = format!("{variable}{at}: {message}");
            self.errors.push(ConfigError { place: Place::Environment, message });
        }
    }

    /// One warning for all of `variables`, by the name of the first.
    fn note_variables(&mut self, variables: &[&str], what: &str) {
        if let Some(first) = variables.first() {
            let message = format!("not read: {} such variables {what}", variables.len());
            self.note(first, message);
        }
    }

    fn note(&mut self, option: &str, message: String) {
        self.notes.push(Warning { option: option.to_owned(), message });
    }

    /// `spelled` is the name as it stood in the source, for the message if it is no option.
    fn set(&mut self, place: Place, name: &str, spelled: &str, given: Given<'_>) {
        let name = foreign::here(name);
        let instead = match go::switched_off(name, given) {
            Some((value, note)) => {
                self.note(&place.spell(name), note);
                Some(value)
            }
            // Centrifugo's flag for no port is an empty text.
            None if name == "http_server.internal_port" && given.text() == Some("") => Some(Json::from(0)),
            None => go::is_unset(name, given).then(|| go::default_of(name)),
        };
        let given = instead.as_ref().filter(|value| !value.is_null()).map_or(given, Given::Tree);
        let Some(faults) = registry::set(&mut self.config, name, given) else {
            return self.set_foreign(place, name, spelled, given);
        };
        if self.places.get(name) == Some(&place) {
            let (option, at, message) = (name.to_owned(), String::new(), "is given twice".to_owned());
            self.errors.push(about(place.clone(), Problem { option, at, message }));
        }
        if name == "channel.namespaces" {
            for (at, note) in foreign::namespace_notes(given) {
                self.note(&format!("{}{at}", place.spell(name)), note);
            }
        }
        if !faults.is_empty() {
            self.unread.insert(name.to_owned());
        }
        for ValueFault { at, message } in faults {
            let option = name.to_owned();
            self.errors.push(about(place.clone(), Problem { option, at, message }));
        }
        self.places.insert(name.to_owned(), place);
    }

    /// Judges a name that is no option here.
    fn set_foreign(&mut self, place: Place, name: &str, spelled: &str, given: Given<'_>) {
        let spelled = if place == Place::CommandLine { format!("--{spelled}") } else { spelled.to_owned() };
        let message = match foreign::option(name, given) {
            Some(Disposition::Holds) => return,
            Some(Disposition::Note(note)) => return self.note(&spelled, note),
            Some(Disposition::Is(here)) => {
                self.note(&spelled, format!("is read as {}", place.spell(here)));
                return self.set(place, here, here, given);
            }
            Some(Disposition::Refused(message)) => format!("{spelled}: {message}"),
            None => unknown::option(name, &spelled, |option| place.spell(option)),
        };
        self.errors.push(ConfigError { place, message });
    }

    fn finish(mut self) -> (Result<Config, Vec<ConfigError>>, Vec<Warning>) {
        if self.config.dev {
            self.config.apply_dev(&|name| self.places.contains_key(name));
        }
        let mut problems = self.config.check_each();
        if !self.blind {
            let together = self.config.check_together().into_iter();
            problems.extend(together.filter(|problem| !self.is_about_unread(problem)));
        }
        for problem in problems {
            let place = self.places.get(&problem.option).cloned().unwrap_or(Place::Default);
            self.errors.push(about(place, problem));
        }
        let mut warnings = if self.blind { Vec::new() } else { self.config.warnings() };
        // What an option comes to without its value is not what its operator will have.
        warnings.retain(|warning| !self.unread.contains(&warning.option));
        warnings.append(&mut self.notes);
        match self.errors.is_empty() {
            true => (Ok(self.config), warnings),
            false => (Err(self.errors), warnings),
        }
    }

    /// Whether a rule between options speaks of one that could not be read: its value is not its operator's.
    fn is_about_unread(&self, problem: &Problem) -> bool {
        let section = |name: &str| name.rsplit_once('.').map_or(String::new(), |(section, _)| section.to_owned());
        let key = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        self.unread.iter().any(|name| {
            let same_section = section(name) == section(&problem.option) && problem.message.contains(&key(name));
            problem.option == *name || problem.message.contains(name.as_str()) || same_section
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn own(pairs: Pairs<'_>) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn try_load(file: Option<(&str, &str)>, env: Pairs<'_>, flags: Pairs<'_>) -> Result<Config, Vec<String>> {
        let file = file.map(|(name, text)| File { name, text });
        let loaded = load(file, &own(env), &own(flags));
        let lines = |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect();
        loaded.map(|(config, _)| config).map_err(lines)
    }

    fn toml(text: &str) -> Result<Config, Vec<String>> {
        try_load(Some(("gannet.toml", text)), &[], &[])
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        assert_eq!(try_load(None, &[], &[]).unwrap(), Config::default());
        for empty in ["a.toml", "a.yaml"] {
            assert_eq!(try_load(Some((empty, "# none\n")), &[], &[]).unwrap(), Config::default());
        }
        let config = Config::default();
        assert!(config.health.enabled && !config.prometheus.enabled && !config.echo.enabled);
        assert_eq!(config.echo.message_size_limit, 16 * 1024 * 1024 + 65536);
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let file = Some(("a.toml", "reactors = 1\n[http_server]\nport = 1\n[client]\nchannel_limit = 1"));
        let env = &[("GANNET_HTTP_SERVER_PORT", "2"), ("GANNET_CLIENT_CHANNEL_LIMIT", "2")];
        let config = try_load(file, env, &[("client.channel_limit", "3")]).unwrap();
        assert_eq!(config.reactors, 1);
        assert_eq!(config.http_server.port, 2);
        assert_eq!(config.client.channel_limit, 3);
    }

    #[test]
    fn each_format() {
        let texts = [
            ("a.toml", "reactors = 2\n[client]\nping_interval = '5s'\npong_timeout = '0s'\nallowed_origins = ['*']"),
            ("a.yml", "reactors: 2\nclient:\n  ping_interval: 5s\n  pong_timeout: 0\n  allowed_origins: ['*']\nlog:\n"),
            ("a.json", r#"{"reactors":2,"client":{"ping_interval":"5s","pong_timeout":"0","allowed_origins":["*"]}}"#),
        ];
        for (name, text) in texts {
            let config = try_load(Some((name, text)), &[], &[]).unwrap();
            assert_eq!(config.reactors, 2, "{name}");
            assert_eq!(config.client.ping_interval, Duration::from_secs(5));
            assert_eq!(config.client.pong_timeout, Duration::ZERO);
            assert_eq!(config.client.allowed_origins, ["*"]);
        }
        let wrong = try_load(Some(("gannet.conf", "")), &[], &[]).unwrap_err();
        assert_eq!(wrong, ["gannet.conf: expected a file name that ends in .toml, .yaml, .yml or .json"]);
        let wrong = try_load(Some(("a.json", "[1]")), &[], &[]).unwrap_err();
        assert_eq!(wrong, ["a.json: expected a section with options"]);
        assert_eq!(toml("client = 5").unwrap_err(), ["gannet.toml: client: expected a section with options"]);
    }

    #[test]
    fn an_unknown_name_is_refused_in_every_source() {
        let file = Some(("gannet.toml", "colour = 1\n[client]\nping_intervall = '5s'\n[map_broker]\ntype = 'redis'"));
        let env = &[("GANNET_CLIENT_PING_INTERVALL", "5s"), ("GANNET_CONFIG", "x"), ("PATH", "/bin")];
        let wrong = try_load(file, env, &[("client.ping-interval", "5s"), ("http_server.h2c_external", "true")]);
        let expected = [
            "gannet.toml: unknown option client.ping_intervall; did you mean client.ping_interval?",
            "gannet.toml: unknown option colour; `gannet config` prints those there are",
            "gannet.toml: map_broker: a Centrifugo option that this version does not support yet: map subscriptions are \
             not there yet: set type to memory, or remove the section",
            "environment: unknown option GANNET_CLIENT_PING_INTERVALL; did you mean GANNET_CLIENT_PING_INTERVAL?",
            "command line: unknown option --client.ping-interval; did you mean --client.ping_interval?",
            "command line: --http_server.h2c_external: a Centrifugo option that this version does not support yet: \
             remove it: clients connect by HTTP/1.1",
        ];
        assert_eq!(wrong.unwrap_err(), expected);
    }

    #[test]
    fn wrong_values_say_what_was_expected_and_where() {
        let file = Some((
            "g.yaml",
            "reactors: many\nhttp_server: {port: 70000}\nclient: {ping_interval: 25, token: {hmac_secret_key: 12345}}",
        ));
        let env = &[("GANNET_DEV", "yes"), ("GANNET_WEBSOCKET_MESSAGE_SIZE_LIMIT", "64K")];
        let wrong = try_load(file, env, &[("websocket.write_timeout", "1"), ("reactor.accept_budget", "0")]);
        let expected = [
            "g.yaml: client.ping_interval: expected a duration with its unit (25s, 100ms, 1m30s), 1s to 1day; got 25",
            "g.yaml: client.token.hmac_secret_key: expected text, in quotes",
            "g.yaml: http_server.port: expected a whole number, 0 to 65535; got 70000",
            "g.yaml: reactors: expected a whole number, 0 to 1024; got \"many\"",
            "environment: GANNET_DEV: expected true or false; got \"yes\"",
            "environment: GANNET_WEBSOCKET_MESSAGE_SIZE_LIMIT: expected bytes (65536, 64KiB), 1 to 1GiB; got \"64K\"",
            "command line: --websocket.write_timeout: expected a duration with its unit (25s, 100ms, 1m30s), \
             100ms to 1day; got \"1\"",
            "command line: --reactor.accept_budget: expected a whole number, 1 to 1048576; got 0",
        ];
        assert_eq!(wrong.unwrap_err(), expected);
    }

    #[test]
    fn a_rule_between_options_names_the_source() {
        let wrong = try_load(None, &[("GANNET_CLIENT_PONG_TIMEOUT", "30s")], &[]).unwrap_err();
        let text = "environment: GANNET_CLIENT_PONG_TIMEOUT: expected less than client.ping_interval, which is 25s; \
                    got 30s";
        assert_eq!(wrong, [text]);
        let wrong = try_load(None, &[], &[("client.ping_interval", "5s")]).unwrap_err();
        assert_eq!(wrong, ["client.pong_timeout: expected less than client.ping_interval, which is 5s; got 8s"]);
    }

    #[test]
    fn types_and_meanings_are_told_at_once_with_the_warnings() {
        let text = "[client]\nping_interval = 25\ninsecure = true\n[channel.without_namespace]\nhistory_size = 5\n\
                    [[proxies]]\nname = 'backend'\n[rpc.without_namespace]\nproxy_name = 'orders'";
        let env = own(&[("GANNET_COLOUR", "blue")]);
        let (result, warnings) = examine(Some(File { name: "a.toml", text }), &env, &[]);
        let lines: Vec<_> = result.unwrap_err().iter().map(ToString::to_string).collect();
        let starts = [
            "a.toml: client.ping_interval: expected a duration",
            "a.toml: proxies[0]: a proxy wants an endpoint",
            "channel.without_namespace.history_ttl: expected more than 0 with history_size",
        ];
        assert_eq!(lines.len(), starts.len(), "what could not be read is blamed for nothing else: {lines:#?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
        let options: Vec<_> = warnings.iter().map(|warning| warning.option.as_str()).collect();
        assert_eq!(options, ["client.insecure", "client.allowed_origins", "GANNET_COLOUR"]);
        let text = "[client]\nallowed_origins = 5\n[client.token]\nhmac_secret_key = 5";
        let (result, warnings) = examine(Some(File { name: "a.toml", text }), &[], &[]);
        assert_eq!((result.unwrap_err().len(), warnings), (2, Vec::new()), "nor is it said to be empty");
    }

    #[test]
    fn a_file_that_does_not_parse_hides_no_other_problem() {
        let wrong = try_load(Some(("a.toml", "reactors =")), &[], &[("reactors", "x")]).unwrap_err();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("a.toml: not TOML: "));
    }

    #[test]
    fn durations_sizes_and_booleans() {
        let spans = [("25s", 25_000), ("1500ms", 1500), ("1h", 3_600_000), ("1m30s", 90_000), ("1m 30s", 90_000)];
        let of_go =
            [("1h0m0s", 3_600_000), ("1.5h", 5_400_000), ("1h30m", 5_400_000), ("1500.5ms", 1500), (".5m", 30_000)];
        for (text, millis) in spans.into_iter().chain(of_go) {
            let config = try_load(None, &[], &[("client.ping_interval", text), ("client.pong_timeout", "0")]).unwrap();
            assert_eq!(config.client.ping_interval.as_millis(), millis, "{text}");
        }
        for bad in ["", "h", "1", "1.h.", "1.5", "--5s", "1x", "1.5.5s", "99999999999999h", "1.99999999999999999999s"] {
            assert!(try_load(None, &[], &[("client.ping_interval", bad)]).is_err(), "{bad}");
        }
        let sizes = [("65536", 65536), ("64KiB", 65536), ("1MiB", 1 << 20), ("8MB", 8_000_000), ("2 kb", 2000)];
        for (text, bytes) in sizes {
            let config = try_load(None, &[("GANNET_CLIENT_QUEUE_MAX_SIZE", text)], &[]).unwrap();
            assert_eq!(config.client.queue_max_size, bytes, "{text}");
        }
        let file = toml("[overload]\nmemory_limit = '4GiB'\n[prometheus]\nenabled = true").unwrap();
        assert_eq!(file.overload.memory_limit, 4 << 30);
        assert!(file.prometheus.enabled);
        for bad in ["-1", "+1", "1.5", "1K", "", "KiB", "99999999999999999999", "99999999999GiB"] {
            assert!(try_load(None, &[], &[("client.queue_max_size", bad)]).is_err(), "{bad}");
        }
        for count in ["64KiB", "1 B", "1e3"] {
            assert!(try_load(None, &[], &[("client.channel_limit", count)]).is_err(), "{count} is not a count");
        }
        assert!(!try_load(None, &[], &[("health.enabled", "false")]).unwrap().health.enabled);
    }

    #[test]
    fn lists() {
        for text in ["https://a.b,*.c", "https://a.b *.c", " https://a.b, *.c ", r#"["https://a.b", "*.c"]"#] {
            let config = try_load(None, &[("GANNET_CLIENT_ALLOWED_ORIGINS", text)], &[]).unwrap();
            assert_eq!(config.client.allowed_origins, ["https://a.b", "*.c"], "{text}");
        }
        let glob = try_load(None, &[], &[("client.allowed_origins", "[ab].c")]).unwrap();
        assert_eq!(glob.client.allowed_origins, ["[ab].c"]);
        assert!(try_load(None, &[], &[("client.allowed_origins", "")]).unwrap().client.allowed_origins.is_empty());
        assert!(toml("[client]\nallowed_origins = [1]").is_err());
    }

    #[test]
    fn namespaces_by_every_source() {
        let json = r#"[{"name":"chat","allow_subscribe_for_client":true},{"name":"news"}]"#;
        let tables = "[[channel.namespaces]]\nname = 'chat'\nallow_subscribe_for_client = true\n\
                      [[channel.namespaces]]\nname = 'news'";
        let yaml = "channel:\n  namespaces:\n  - name: chat\n    allow_subscribe_for_client: true\n  - name: news";
        let loaded = [
            toml(tables),
            try_load(Some(("a.yaml", yaml)), &[], &[]),
            try_load(Some(("a.json", &format!("{{\"channel\":{{\"namespaces\":{json}}}}}"))), &[], &[]),
            try_load(None, &[("GANNET_CHANNEL_NAMESPACES", json)], &[]),
            try_load(None, &[], &[("channel.namespaces", json)]),
        ];
        for config in loaded {
            let namespaces = config.unwrap().channel.namespaces;
            assert_eq!(namespaces[0].name, "chat");
            assert!(namespaces[0].options.allow_subscribe_for_client);
            assert!(!namespaces[0].options.allow_publish_for_client);
            assert_eq!(namespaces[1].name, "news");
        }
    }

    #[test]
    fn a_namespace_is_read_as_strictly() {
        let json = r#"[{"name":"chat","histroy_size":1,"publish_cel":"true","allow_subscribe_for_client":"si"},
                      {"allow_publish_for_clients":true}, 5, {"name":7}]"#;
        let wrong = try_load(None, &[], &[("channel.namespaces", json)]).unwrap_err();
        let expected = [
            "[0].allow_subscribe_for_client: expected true or false; got \"si\"",
            "[0].histroy_size: unknown option; did you mean history_size?",
            "[0].publish_cel: a Centrifugo option that this version does not support yet: grant by",
            "[1].allow_publish_for_clients: unknown option; did you mean allow_publish_for_client?",
            "[1]: a namespace wants a name",
            "[2]: expected an object with a name; got 5",
            "[3].name: expected text, in quotes; got 7",
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (line, end) in wrong.iter().zip(expected) {
            assert!(line.starts_with(&format!("command line: --channel.namespaces{end}")), "{line}");
        }
        let twice = try_load(None, &[("GANNET_CHANNEL_NAMESPACES", r#"[{"name":"aa"},{"name":"aa"}]"#)], &[]);
        let twice = twice.unwrap_err();
        assert!(twice[0].starts_with("environment: GANNET_CHANNEL_NAMESPACES[1].name: "), "{twice:?}");
        let broken = try_load(None, &[], &[("channel.namespaces", "[{")]).unwrap_err();
        assert!(broken[0].contains("as JSON; not JSON: EOF"), "{broken:?}");
    }

    #[test]
    fn an_option_given_twice_in_one_source_is_refused() {
        let twice = try_load(None, &[], &[("reactors", "1"), ("reactors", "2")]).unwrap_err();
        assert_eq!(twice, ["command line: --reactors: is given twice"]);
        let dotted = try_load(Some(("a.yaml", "client: {insecure: true}\nclient.insecure: false")), &[], &[]);
        assert_eq!(dotted.unwrap_err(), ["a.yaml: client.insecure: is given twice"]);
    }

    #[test]
    fn files_of_certificates_have_a_second_name() {
        let text = "[http_server.tls]\ncert_pem_file = 'a'\nkey_pem_file = 'b'\n[tls]\n\
                    certificates = [{cert_pem_file = 'c', key_pem = 'd'}]\n\
                    [[proxies]]\nname = 'backend'\nendpoint = 'https://b.example'\n\
                    http = {tls = {enabled = true, cert_pem_file = 'e', key_pem_file = 'f'}}";
        let env = &[("GANNET_GRPC_API_TLS_CERT_PEM_FILE", "g"), ("GANNET_PROXIES_BACKEND_HTTP_TLS_KEY_PEM_FILE", "h")];
        let flags = &[("engine.redis.tls.server_ca_pem_file", "i")];
        let config = try_load(Some(("a.toml", text)), env, flags).unwrap();
        let (own, named, proxy) = (&config.http_server.tls, &config.tls.certificates[0], &config.proxies[0].proxy);
        assert_eq!([&own.cert_pem, &own.key_pem, &named.cert_pem, &named.key_pem], ["a", "b", "c", "d"]);
        assert_eq!([&proxy.http.tls.cert_pem, &proxy.http.tls.key_pem], ["e", "h"]);
        assert_eq!([&config.grpc_api.tls.cert_pem, &config.engine.stores.redis.tls.server_ca_pem], ["g", "i"]);
        let twice = "[http_server.tls]\ncert_pem_file = 'a'\ncert_pem = 'b'\n[tls]\n\
                     certificates = [{cert_pem = 'c', key_pem = 'd', key_pem_file = 'e'}]";
        let expected = [
            "gannet.toml: http_server.tls.cert_pem: is given twice",
            "gannet.toml: tls.certificates[0].key_pem: is given twice",
        ];
        assert_eq!(toml(twice).unwrap_err(), expected);
        let unknown = toml("[http_server]\ncert_pem_file = 'a'").unwrap_err();
        assert!(unknown[0].starts_with("gannet.toml: unknown option http_server.cert_pem_file"), "{unknown:?}");
    }

    #[test]
    fn variables_of_centrifugo_are_told_apart() {
        let env = own(&[
            ("CENTRIFUGO_CLIENT_CONCURRENCY", "8"),
            ("CENTRIFUGO_ENGINE_TYPE", "redis"),
            ("CENTRIFUGO_SERVICE_HOST", "10.0.0.1"),
            ("CENTRIFUGO_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ]);
        let (config, warnings) = load(None, &env, &[]).unwrap();
        assert_eq!(config, Config::default());
        let told: Vec<_> = warnings.iter().filter(|w| w.option == "CENTRIFUGO_CLIENT_CONCURRENCY").collect();
        assert!(told.len() == 1 && told[0].message.starts_with("not read: 2 such variables"), "{warnings:?}");
    }

    #[test]
    fn dev_yields_to_what_is_set() {
        let config = try_load(None, &[], &[("dev", "true"), ("http_api.insecure", "false")]).unwrap();
        assert!(config.client.insecure && !config.http_api.insecure);
        assert_eq!(config.http_server.address, "127.0.0.1");
        let wrong = try_load(None, &[("GANNET_HTTP_SERVER_ADDRESS", "0.0.0.0")], &[("dev", "true")]).unwrap_err();
        assert!(wrong[0].starts_with("environment: GANNET_HTTP_SERVER_ADDRESS: with dev, expected loopback"));
    }
}
