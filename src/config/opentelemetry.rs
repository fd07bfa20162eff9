//! F0 · What has spans: the options of `opentelemetry`. Where spans go is said by OTEL_* variables, as everywhere.

use super::check::Problem;
use super::value::Rule;
use super::{Config, DAY, secs};
use std::time::Duration;

/// This build has the library.
const IS_BUILT: bool = cfg!(feature = "opentelemetry");
const NOT_BUILT: &str = "this build has no OpenTelemetry: make one with `cargo build --release --features opentelemetry`, or set it to false";

options! {
    pub struct OpenTelemetryOptions {
        /// Spans go to the collector that the OTEL_* variables name. Takes a build with the feature opentelemetry.
        enabled: bool = false;
        /// With enabled: calls of the API, and what they ask of reactors.
        api: bool = false;
        /// With enabled: messages of consumers.
        consuming: bool = false;
        /// With enabled: questions to proxies, which are sent a traceparent.
        proxy: bool = false;
        /// Spans that wait for the collector; beyond: dropped and counted.
        queue_size: usize = 2048, Rule::Count(1, 1 << 20);
        /// When the node leaves: how long it waits for the collector to take what is left.
        shutdown_timeout: Duration = secs(3), Rule::Time(Duration::ZERO, DAY);
    }
}

/// Said of a switch that alone does nothing.
const NOTHING_HAS_SPANS: &str = "nothing has spans: turn on opentelemetry.api, consuming or proxy";

impl OpenTelemetryOptions {
    pub(super) fn warning(&self) -> Option<&'static str> {
        (self.enabled && !(self.api || self.consuming || self.proxy)).then_some(NOTHING_HAS_SPANS)
    }
}

impl Config {
    pub(super) fn check_opentelemetry(&self) -> Option<Problem> {
        let (option, at) = ("opentelemetry.enabled".to_owned(), String::new());
        (self.opentelemetry.enabled && !IS_BUILT).then(|| Problem { option, at, message: NOT_BUILT.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::{File, load};
    use super::{IS_BUILT, NOTHING_HAS_SPANS};

    #[test]
    fn a_build_without_it_says_how_to_get_one_with_it() {
        for (text, is_said) in [(r#"{"enabled":true}"#, !IS_BUILT), (r#"{"enabled":false,"api":true}"#, false)] {
            let text = format!(r#"{{"opentelemetry":{text}}}"#);
            let said = load(Some(File { name: "a.json", text: &text }), &[], &[]).err().unwrap_or_default();
            let said = said.iter().map(ToString::to_string).collect::<String>();
            assert_eq!(said.contains("cargo build --release --features opentelemetry"), is_said, "{said}");
            assert!(is_said || said.is_empty(), "{said}");
        }
    }

    #[test]
    fn a_switch_that_alone_does_nothing_says_so() {
        for (part, is_idle) in [("proxy", false), ("api", false), ("consuming", false), ("enabled", true)] {
            let mut config = Config::default();
            config.opentelemetry.enabled = true;
            let options = &mut config.opentelemetry;
            (options.proxy, options.api, options.consuming) = (part == "proxy", part == "api", part == "consuming");
            assert_eq!(config.warnings().iter().any(|it| it.message == NOTHING_HAS_SPANS), is_idle, "{part}");
        }
    }
}
