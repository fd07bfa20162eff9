//! F0 · The options of the operators' page.

use super::check::Warning;
use super::fit;
use super::value::Rule;
use super::{Config, MIB};

options! {
    pub struct Admin {
        /// Whether it answers.
        enabled: bool = false;
        /// URL path of the page, and of all below it.
        handler_prefix: String = "/admin".into(), Rule::Path;
        /// What operators sign in with. Empty = nobody can. Secret: never printed.
        password: String = String::new(), Rule::Secret;
        /// Signs the sessions of who signed in, for twelve hours; nodes behind one name need the same. Empty = a random
        /// one, until the node ends. Secret: never printed.
        secret: String = String::new(), Rule::Secret;
        /// Nobody needs to sign in. For development.
        insecure: bool = false;
        /// With http_server.internal_port: it answers on the public port too.
        external: bool = false;
        /// Attempts to sign in from one address, in a minute; beyond: 429.
        login_limit: u32 = 10, Rule::Count(1, MIB);
        /// Live traces of a channel or a user at once; beyond: 503.
        trace_limit: usize = 4, Rule::Count(1, 64);
        /// Messages a second that a reactor keeps for one trace, for a few seconds; beyond: they are counted.
        trace_rate_limit: usize = 100, Rule::Count(1, 10_000);
        /// Bytes of a message's data that a trace shows.
        trace_data_size: usize = 1024, Rule::Bytes(1, 64 << 10);
    }
}

const PASSWORD_CHARS_MIN: usize = 8;

impl Config {
    pub(super) fn admin_warnings(&self) -> Vec<Warning> {
        let admin = &self.admin;
        let mut warnings = Vec::new();
        let mut warn = |option: &str, message: String| warnings.push(Warning { option: option.into(), message });
        if !admin.enabled {
            return warnings;
        }
        if admin.insecure {
            warn("admin.insecure", "anyone who reaches the page may publish and disconnect without a password".into());
        } else if admin.password.is_empty() {
            warn("admin.password", "is empty: nobody can sign in to the page".into());
        }
        if let Some(message) = fit::weak_key(&admin.secret) {
            warn("admin.secret", message);
        }
        let password = &admin.password;
        if let Some(edge) = fit::edge(password) {
            warn("admin.password", format!("{edge}: who types it cannot sign in"));
        } else if !password.is_empty() && password.chars().count() < PASSWORD_CHARS_MIN {
            warn("admin.password", format!("is short: who tries finds it out; take {PASSWORD_CHARS_MIN} characters"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, File, load};

    #[test]
    fn what_is_not_safe_is_told() {
        let told = |text: &str| {
            let mut config = Config::default();
            config.admin.enabled = true;
            for pair in text.split_whitespace() {
                match pair.split_once('=') {
                    Some(("password", value)) => config.admin.password = value.into(),
                    Some(("secret", value)) => config.admin.secret = value.into(),
                    _ => config.admin.insecure = true,
                }
            }
            config.admin_warnings().iter().map(|warning| warning.option.clone()).collect::<Vec<_>>()
        };
        let strong = "correct-horse-battery-staple";
        assert_eq!(told(""), ["admin.password"]);
        assert_eq!(told("insecure"), ["admin.insecure"]);
        let mut config = Config::default();
        (config.admin.enabled, config.admin.password) = (true, format!("{strong}\n"));
        assert!(config.admin_warnings()[0].message.starts_with("ends in a line break"));
        assert_eq!(told("password=abc secret=abc"), ["admin.secret", "admin.password"]);
        assert_eq!(told(&format!("password={strong} secret={strong}")), [""; 0]);
        assert!(Config::default().admin_warnings().is_empty(), "it is off");
    }

    /// A section of Centrifugo's as people write it, with what is not read here.
    #[test]
    fn a_section_of_centrifugo_s_loads() {
        let text = r#"{"admin":{"enabled":true,"password":"correct-horse-battery","secret":"correct-horse-battery",
            "handler_prefix":"","web_path":"/srv/web","web_proxy_address":""}}"#;
        let (config, warnings) = load(Some(File { name: "c.json", text }), &[], &[]).expect("taken");
        assert_eq!((config.admin.handler_prefix.as_str(), config.admin.external), ("/admin", false));
        let told: Vec<&str> = warnings.iter().map(|warning| warning.option.as_str()).collect();
        assert!(told.contains(&"admin.web_path") && !told.contains(&"admin.web_proxy_address"), "{told:?}");
    }
}
