//! F0 · Which variables of the environment are options, and what the others are that begin as ours do.
//!
//! Owns the names: those of options, those of one object in a list, those that other programs read or Kubernetes
//! writes; and `${GANNET_VAR_...}` within headers of a file. Never judges a value, and never reads the environment.

use serde_json::Value as Json;

use super::list::{self, ListEntry};
use super::registry::{self, env_name};
use super::value::{Given, ValueFault};
use super::{Config, foreign};

/// Read by the program itself, by the load generator, and by `tuning/apply`.
const OWN: &[&str] = &["CONFIG", "TUNING_ROOT"];
const OWN_PREFIXES: &[&str] = &["LOADGEN_", "VAR_"];

/// What a variable is for.
#[derive(Debug, PartialEq)]
pub enum Variable {
    /// The option of that name.
    Option(String),
    /// An option of an object in a list (`GANNET_CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE`): the list, and what follows it.
    Item(NamedList, String),
    /// Nothing that this program reads.
    Skipped,
    /// Begins with a section, and so was meant as an option. Lower case, all underscores.
    Unknown(String),
    /// Whose it is nobody knows.
    Stray(String),
}

/// The lists whose objects have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedList {
    Namespaces,
    RpcNamespaces,
    Proxies,
    Consumers,
}

const LISTS: [NamedList; 4] =
    [NamedList::Namespaces, NamedList::RpcNamespaces, NamedList::Proxies, NamedList::Consumers];

impl NamedList {
    /// The option that has it.
    pub fn option(self) -> &'static str {
        match self {
            NamedList::Namespaces => "channel.namespaces",
            NamedList::RpcNamespaces => "rpc.namespaces",
            NamedList::Proxies => "proxies",
            NamedList::Consumers => "consumers",
        }
    }
}

/// `None` if it does not begin as ours do. `options` are the names of all options.
pub fn variable(name: &str, value: &str, options: &[String]) -> Option<Variable> {
    // As foreign::here has it.
    let name = name.strip_suffix("_FILE").filter(|rest| rest.ends_with("_PEM")).unwrap_or(name);
    let rest = name.strip_prefix("GANNET_")?;
    let own = OWN.contains(&rest) || OWN_PREFIXES.iter().any(|prefix| rest.starts_with(prefix));
    // A Service may be called as a section is: its address is no port.
    if own || is_service_link(rest, value) {
        return Some(Variable::Skipped);
    }
    if let Some(option) = options.iter().find(|option| env_name(option) == name) {
        return Some(Variable::Option(option.clone()));
    }
    for list in LISTS {
        let prefix = env_name(list.option()) + "_";
        if let Some(rest) = name.strip_prefix(&prefix) {
            return Some(Variable::Item(list, rest.to_owned()));
        }
    }
    let lower = rest.to_ascii_lowercase();
    let mut sections = options.iter().filter_map(|option| Some(option.split_once('.')?.0));
    let within = |section: &str| lower.strip_prefix(section).is_some_and(|r| r.is_empty() || r.starts_with('_'));
    let meant = sections.any(within) || foreign::option(&lower, Given::Text(value)).is_some();
    Some(if meant { Variable::Unknown(lower) } else { Variable::Stray(lower) })
}

/// Kubernetes gives a pod variables about each Service of its namespace; for one called `gannet` they
/// begin as ours do (`GANNET_PORT_8000_TCP_ADDR`). To refuse those would keep the pod from starting.
pub fn is_service_link(rest: &str, value: &str) -> bool {
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let (_, after) = rest.rsplit_once("PORT_").unwrap_or_default();
    let mut parts = after.split('_');
    let numbered = parts.next().is_some_and(|n| n.parse::<u16>().is_ok())
        && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"));
    let service = format!("_{rest}_");
    let named = service.contains("_SERVICE_HOST_") || service.contains("_SERVICE_PORT_");
    address || numbered || named
}

/// Sets an option of an object in a list. What is wrong: the name, or the value.
pub fn set_item(config: &mut Config, list: NamedList, rest: &str, value: &str) -> Result<(), Vec<ValueFault>> {
    match list {
        NamedList::Namespaces => set_one(&mut config.channel.namespaces, list, rest, value),
        NamedList::RpcNamespaces => set_one(&mut config.rpc.namespaces, list, rest, value),
        NamedList::Proxies => set_one(&mut config.proxies, list, rest, value),
        NamedList::Consumers => set_one(&mut config.consumers, list, rest, value),
    }
}

fn set_one<T: ListEntry>(items: &mut [T], list: NamedList, rest: &str, value: &str) -> Result<(), Vec<ValueFault>> {
    let names: Vec<String> = items.iter_mut().map(|item| list::name_of(item)).collect();
    let key = |name: &String| rest.strip_prefix(&in_variable(name)).and_then(|after| after.strip_prefix('_'));
    let mut astray = None;
    let mut known = false;
    for (item, name) in items.iter_mut().zip(&names) {
        let Some(key) = key(name) else { continue };
        match list::names(item).into_iter().find(|option| in_variable(option) == key) {
            Some(option) => {
                known = true;
                let mut changed = item.clone();
                let mut faults = registry::set(&mut changed, &option, Given::Text(value)).unwrap_or_default();
                let judged = list::judge(&mut changed).into_iter().filter(|fault| fault.at == format!(".{option}"));
                faults.extend(judged.map(|fault| ValueFault { at: String::new(), ..fault }));
                if !faults.is_empty() {
                    return Err(faults);
                }
                *item = changed;
            }
            None => astray = Some(T::foreign(&key.to_ascii_lowercase(), &Json::from(value))),
        }
    }
    let message = match astray {
        _ if known => return Ok(()),
        Some(None) => return Ok(()),
        Some(Some(message)) => message,
        None => {
            let there = if names.is_empty() { "is empty".into() } else { format!("has {}", names.join(", ")) };
            format!("unknown option: it begins with no name out of {}, which {there}", list.option())
        }
    };
    Err(vec![ValueFault { at: String::new(), message }])
}

/// A name as it stands in a variable.
fn in_variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(['.', '-'], "_")
}

/// Puts variables in the place of `${GANNET_VAR_NAME}` in headers, in the whole of a file. Centrifugo's own prefix will
/// do as well. What comes back are those that are not there.
pub fn expand(tree: &mut Json, env: &[(String, String)]) -> Vec<String> {
    let mut missing = Vec::new();
    descend(tree, false, env, &mut missing);
    missing
}

fn descend(tree: &mut Json, in_headers: bool, env: &[(String, String)], missing: &mut Vec<String>) {
    match tree {
        Json::String(text) if in_headers => *text = expanded(text, env, missing),
        Json::Array(items) => items.iter_mut().for_each(|item| descend(item, in_headers, env, missing)),
        Json::Object(fields) => {
            for (key, value) in fields {
                let headers = key.rsplit('.').next() == Some("static_headers");
                descend(value, in_headers || headers, env, missing);
            }
        }
        _ => {}
    }
}

fn expanded(text: &str, env: &[(String, String)], missing: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let name = after.split_once('}').map(|(name, _)| name);
        let name = name.filter(|name| name.starts_with("GANNET_VAR_") || name.starts_with("CENTRIFUGO_VAR_"));
        let Some(name) = name else {
            out = out + before + "${";
            rest = after;
            continue;
        };
        out += before;
        match env.iter().find(|(variable, _)| variable == name) {
            Some((_, value)) => out += value,
            None => missing.push(name.to_owned()),
        }
        rest = &after[name.len() + 1..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::super::{File, load};
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn own(pairs: Pairs<'_>) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    /// The configuration, and what is told of variables.
    fn loaded(text: &str, env: Pairs<'_>) -> Result<(Config, Vec<String>), Vec<String>> {
        let loaded = load(Some(File { name: "c.json", text }), &own(env), &[]);
        let loaded = loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let told = loaded.1.iter().filter(|warning| warning.option.starts_with("GANNET_"));
        Ok((loaded.0, told.map(ToString::to_string).collect()))
    }

    #[test]
    fn what_kubernetes_writes_for_services_is_passed_over() {
        let env = own(&[
            ("GANNET_SERVICE_HOST", "10.0.0.1"),
            ("GANNET_SERVICE_PORT", "8000"),
            ("GANNET_SERVICE_PORT_WEB", "8000"),
            ("GANNET_SERVICE_PORT_GRPC_API", "10000"),
            ("GANNET_PORT", "tcp://10.0.0.1:8000"),
            ("GANNET_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("GANNET_PORT_8000_TCP_PROTO", "tcp"),
            ("GANNET_PORT_8000_TCP_PORT", "8000"),
            ("GANNET_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("GANNET_INTERNAL_SERVICE_HOST", "10.0.0.2"),
            // Of Services that are called as sections of ours are.
            ("GANNET_HTTP_SERVER_PORT", "tcp://10.0.0.3:8000"),
            ("GANNET_GRPC_API_PORT", "tcp://10.0.0.3:10000"),
            ("GANNET_GRPC_API_PORT_10000_TCP_PORT", "10000"),
            ("GANNET_PROXIES_PORT_80_TCP", "tcp://10.0.0.3:80"),
        ]);
        let (config, warnings) = load(None, &env, &[]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(warnings, Config::default().check().unwrap(), "nothing is told");
    }

    #[test]
    fn own_and_stray_variables_do_not_stop_the_server() {
        let own = [
            ("GANNET_CONFIG", "x"),
            ("GANNET_LOADGEN_SECRET", "x"),
            ("GANNET_LOADGEN_TOKEN_SECRET", "x"),
            ("GANNET_TUNING_ROOT", "/"),
            ("GANNET_VAR_KEY", "x"),
        ];
        assert_eq!(loaded("{}", &own).unwrap().1, [""; 0]);
        let stray = [("GANNET_VERSION", "1.2.3"), ("GANNET_PORT", "9000"), ("GANNET_IMAGE", "gannet:1")];
        let expected = [
            "GANNET_VERSION: not read: unknown option GANNET_VERSION; `gannet config` prints those there are",
            "GANNET_PORT: not read: unknown option GANNET_PORT; did you mean GANNET_HTTP_SERVER_PORT?",
            "GANNET_IMAGE: not read: unknown option GANNET_IMAGE; `gannet config` prints those there are",
        ];
        assert_eq!(loaded("{}", &stray).unwrap().1, expected);
        for meant in ["GANNET_CLIENT_PING_INTERVALL", "GANNET_HTTP_SERVER_PROT", "GANNET_CONSUMERS_K_ENABLED"] {
            assert!(loaded("{}", &[(meant, "1")]).is_err(), "{meant} begins with a section");
        }
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let text = r#"{"client":{"allowed_origins":["https://a.b"]},"reactors":2}"#;
        let empty = [
            ("GANNET_CLIENT_ALLOWED_ORIGINS", ""),
            ("GANNET_REACTORS", ""),
            ("GANNET_DEV", ""),
            ("GANNET_CLIENT_PING_INTERVALL", ""),
            ("GANNET_COLOUR", ""),
        ];
        let (config, told) = loaded(text, &empty).unwrap();
        assert_eq!((config, told), loaded(text, &[]).unwrap());
    }

    const LISTS: &str = r#"{
        "channel": {"namespaces": [{"name": "chat"}, {"name": "chat-2.x", "history_size": 1, "history_ttl": "1s"}]},
        "rpc": {"namespaces": [{"name": "orders"}]},
        "proxies": [{"name": "main", "endpoint": "http://a"}]
    }"#;

    #[test]
    fn an_object_of_a_list_is_set_by_its_name() {
        let env = [
            ("GANNET_CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE", "10"),
            ("GANNET_CHANNEL_NAMESPACES_CHAT_HISTORY_TTL", "300s"),
            ("GANNET_CHANNEL_NAMESPACES_CHAT_PRESENCE", "1"),
            ("GANNET_CHANNEL_NAMESPACES_CHAT_2_X_HISTORY_SIZE", "5"),
            ("GANNET_CHANNEL_NAMESPACES_CHAT_SUBSCRIBE_STREAM_PROXY_ENABLED", "false"),
            ("GANNET_RPC_NAMESPACES_ORDERS_PROXY_ENABLED", "true"),
            ("GANNET_RPC_NAMESPACES_ORDERS_PROXY_NAME", "main"),
            ("GANNET_PROXIES_MAIN_ENDPOINT", "http://b/c"),
            ("GANNET_PROXIES_MAIN_HTTP_STATIC_HEADERS", r#"{"X-Key":"k"}"#),
        ];
        let (config, told) = loaded(LISTS, &env).unwrap();
        let [chat, other] = &config.channel.namespaces[..] else { panic!() };
        assert_eq!((chat.options.history_size, chat.options.history_ttl.as_secs()), (10, 300));
        assert!(chat.options.presence && !other.options.presence);
        assert_eq!(other.options.history_size, 5);
        let orders = &config.rpc.namespaces[0].options;
        assert!(orders.proxy_enabled && orders.proxy_name == "main");
        assert_eq!(config.proxies[0].proxy.endpoint, "http://b/c");
        assert_eq!(config.proxies[0].proxy.http.static_headers["X-Key"], "k");
        assert_eq!(told, [""; 0]);
        // The list itself may come from a variable.
        let env =
            [("GANNET_CHANNEL_NAMESPACES", r#"[{"name":"news"}]"#), ("GANNET_CHANNEL_NAMESPACES_NEWS_JOIN_LEAVE", "t")];
        assert!(loaded("{}", &env).unwrap().0.channel.namespaces[0].options.join_leave);
    }

    #[test]
    fn an_object_of_a_list_is_set_as_strictly() {
        let table = [
            ("CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE", "many", "expected a whole number, 0 to 16777216; got \"many\""),
            (
                "CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE",
                "16777217",
                "expected a whole number, 0 to 16777216; got 16777217",
            ),
            ("CHANNEL_NAMESPACES_CHAT_HISTROY_SIZE", "1", "unknown option; did you mean history_size?"),
            ("CHANNEL_NAMESPACES_CHAT_PUBLISH_CEL", "true", "a Centrifugo option that this version does not support"),
            (
                "CHANNEL_NAMESPACES_NEWS_HISTORY_SIZE",
                "1",
                "unknown option: it begins with no name out of channel.namespaces, which has chat, chat-2.x",
            ),
            ("RPC_NAMESPACES_ORDERS_PROXY_NAEM", "x", "unknown option; did you mean proxy_name?"),
            ("PROXIES_MAIN_TIMEOUT", "25", "expected a duration with its unit"),
            ("PROXIES_MAIN_ENDPOINT", "ftp://a", "expected a URL that begins with http://"),
            ("PROXIES_MAIN_INFLIGHT_LIMIT", "0", "expected a whole number, 1 to 65536; got 0"),
        ];
        for (variable, value, message) in table {
            let variable = format!("GANNET_{variable}");
            let lines = loaded(LISTS, &[(&variable, value)]).unwrap_err();
            let start = format!("environment: {variable}: {message}");
            assert!(lines.len() == 1 && lines[0].starts_with(&start), "{start}\n{lines:#?}");
        }
        let none = loaded("{}", &[("GANNET_PROXIES_MAIN_TIMEOUT", "1s")]).unwrap_err();
        assert!(none[0].ends_with("it begins with no name out of proxies, which is empty"), "{none:?}");
    }

    #[test]
    fn variables_stand_in_headers_of_a_file() {
        let text = r#"{"rpc":{"proxy":{"endpoint":"http://a/${GANNET_VAR_A}","http":{"static_headers":
            {"A":"x ${GANNET_VAR_A} ${CENTRIFUGO_VAR_B}","C":"${HOME} $ {}"}}}}}"#;
        let text = text.replace("http://a/${GANNET_VAR_A}", "http://a/");
        let env = [("GANNET_VAR_A", "a"), ("CENTRIFUGO_VAR_B", "b")];
        let headers = loaded(&text, &env).unwrap().0.rpc.proxy.http.static_headers;
        assert_eq!((headers["A"].as_str(), headers["C"].as_str()), ("x a b", "${HOME} $ {}"));
        let list = text.replace(
            "\"static_headers\":",
            "\"static_headers\": [{\"key\": \"K\", \"value\": \"${GANNET_VAR_A}\"}], \"x\":",
        );
        let list = list[..list.find(", \"x\"").unwrap()].to_owned() + "}}}}";
        assert_eq!(loaded(&list, &env).unwrap().0.rpc.proxy.http.static_headers["K"], "a");
        let wrong = loaded(&text, &env[1..]).unwrap_err();
        assert_eq!(wrong, ["c.json: static_headers: the environment has no variable GANNET_VAR_A"]);
    }
}
