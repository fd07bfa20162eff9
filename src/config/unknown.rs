//! F0 · What to say of a name that is no option.
//!
//! Owns the search for the nearest valid name. Never knows where the name was found, nor what Centrifugo calls
//! so: `foreign` has been asked before.

use super::ChannelOptions;
use super::registry::{self, Meta, Visit, Visitor};
use super::value::Value;

/// How alike two names must be, of 1, for the one to be offered in place of the other.
const CLOSE: f64 = 0.7;

/// One line on a name that is no option. `spell` writes an option the way the source at hand does:
/// `client.ping_interval`, `GANNET_CLIENT_PING_INTERVAL` or `--client.ping_interval`. `name` is without
/// such dress: dotted, or all underscores where the source cannot tell the two apart.
pub fn option(name: &str, spelled: &str, spell: impl Fn(&str) -> String) -> String {
    let options = registry::options();
    let candidates: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
    match nearest(name, &candidates).map(spell) {
        Some(near) => format!("unknown option {spelled}; did you mean {near}?"),
        None => format!("unknown option {spelled}; `gannet config` prints those there are"),
    }
}

/// The same for a key of a namespace. What is wrong with it, without its name.
pub fn channel_option(key: &str) -> String {
    struct Names(Vec<String>);
    impl Visitor for Names {
        fn option(&mut self, meta: Meta<'_>, _: &mut dyn Value) {
            self.0.push(meta.name.to_owned());
        }
    }
    let mut names = Names(vec!["name".to_owned()]);
    let mut options = ChannelOptions::default();
    let rule = super::value::Rule::Any;
    options.visit(Meta { name: "", about: "", rule }, &mut names);
    let candidates: Vec<&str> = names.0.iter().map(String::as_str).collect();
    match nearest(key, &candidates) {
        Some(near) => format!("unknown option; did you mean {near}?"),
        None => format!("unknown option; a namespace has {}", candidates.join(", ")),
    }
}

/// The same for a key of an object in a list; `what` is such an object ("a proxy").
pub fn list_option(key: &str, what: &str, names: &[String]) -> String {
    let candidates: Vec<&str> = names.iter().map(String::as_str).collect();
    match nearest(key, &candidates) {
        Some(near) => format!("unknown option; did you mean {near}?"),
        None => format!("unknown option; {what} has {}", candidates.join(", ")),
    }
}

/// All underscores, lower case: what is left when the three ways to write a name are put aside.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['.', '-'], "_")
}

/// The candidate that was probably meant: one whose end it is (`ping_interval`), the same key in another
/// section, or the one most alike, if it is alike enough.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let wanted = plain(name);
    let ends = candidates.iter().filter(|c| format!("_{}", plain(c)).ends_with(&format!("_{wanted}")));
    // Of several the least deep, and of those the first that is listed: the more usual come first.
    if let Some(nearest) = ends.min_by_key(|c| c.matches('.').count()) {
        return Some(nearest);
    }
    let key = |dotted: &str| dotted.rsplit('.').next().unwrap_or(dotted).to_owned();
    let score = |candidate: &str| {
        let alike = strsim::normalized_damerau_levenshtein(&wanted, &plain(candidate));
        let moved = name.contains('.') && key(name) == key(candidate);
        if moved { alike + 0.2 } else { alike }
    };
    let best = candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= CLOSE).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(name: &str) -> String {
        option(name, name, str::to_owned)
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let meant = [
            ("client.ping_intervall", "client.ping_interval"),
            ("client_ping_intervall", "client.ping_interval"),
            ("client.ping-interval", "client.ping_interval"),
            ("ping_interval", "client.ping_interval"),
            ("websocket.ping_interval", "client.ping_interval"),
            ("port", "http_server.port"),
            ("http_server.prot", "http_server.port"),
            ("token_hmac_secret_key", "client.token.hmac_secret_key"),
            ("allowed_origins", "client.allowed_origins"),
            ("reactor", "reactors"),
            ("promethius.enabled", "prometheus.enabled"),
        ];
        for (wrong, right) in meant {
            assert_eq!(say(wrong), format!("unknown option {wrong}; did you mean {right}?"));
        }
        assert!(say("colour").starts_with("unknown option colour; `gannet config`"));
    }

    #[test]
    fn a_key_of_a_namespace() {
        assert!(channel_option("allow_subscribe").starts_with("unknown option"));
        assert_eq!(
            channel_option("allow_publish_for_clients"),
            "unknown option; did you mean allow_publish_for_client?"
        );
        assert!(
            channel_option("colour").starts_with("unknown option; a namespace has name, allow_subscribe_for_client,")
        );
    }
}
