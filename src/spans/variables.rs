//! F10 · The OTEL_* variables that are looked at before the library does, which passes over what it cannot read.
//!
//! Owns by which protocol spans are sent, and what is said of a value that would be no use. Never knows a secret:
//! headers are the library's to read.

use std::time::Duration;

/// How long the collector may take, unless a variable says it.
const TIMEOUT: Duration = Duration::from_secs(10);
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

/// What they say.
#[derive(Debug, PartialEq, Eq)]
pub struct Variables {
    pub protocol: Protocol,
    /// Where spans go, as it is written down.
    pub endpoint: String,
    pub timeout: Duration,
    pub service: Option<String>,
}

/// `None` = they say that nothing is to be sent. The error is a line for the operator.
pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Variables>, String> {
    let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    // What is said of traces goes before what is said of all that can be sent.
    let of_traces = |end: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{end}"), format!("OTEL_EXPORTER_OTLP_{end}")];
        names.into_iter().find_map(|name| Some((get(&name)?, name)))
    };
    let disabled = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match get("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") if !disabled => {}
        None | Some("otlp" | "none") => return Ok(None),
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER: expected otlp or none; got {other:?}")),
    }
    let protocol = match of_traces("PROTOCOL") {
        None => Protocol::Http,
        Some((value, _)) if value == "http/protobuf" => Protocol::Http,
        Some((value, _)) if value == "grpc" => Protocol::Grpc,
        Some((value, name)) => return Err(format!("{name}: expected grpc or http/protobuf; got {value:?}")),
    };
    let timeout = match of_traces("TIMEOUT") {
        None => TIMEOUT,
        Some((value, name)) => match value.parse() {
            Ok(ms @ 1..=600_000) => Duration::from_millis(ms),
            _ => return Err(format!("{name}: expected milliseconds, 1 to 600000; got {value:?}")),
        },
    };
    check_sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG"))?;
    let port = if protocol == Protocol::Grpc { 4317 } else { 4318 };
    let endpoint = of_traces("ENDPOINT").map_or_else(|| format!("http://localhost:{port}"), |(value, _)| value);
    Ok(Some(Variables { protocol, endpoint, timeout, service: get("OTEL_SERVICE_NAME") }))
}

fn check_sampler(sampler: Option<String>, argument: Option<String>) -> Result<(), String> {
    let Some(sampler) = sampler else { return Ok(()) };
    if !SAMPLERS.contains(&&*sampler) {
        return Err(format!("OTEL_TRACES_SAMPLER: expected one of {}; got {sampler:?}", SAMPLERS.join(", ")));
    }
    let ratio = argument.as_ref().and_then(|ratio| ratio.parse::<f64>().ok());
    if sampler.ends_with("traceidratio") && !ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)) {
        let given = argument.unwrap_or_default();
        return Err(format!("OTEL_TRACES_SAMPLER_ARG: expected a part of all, 0 to 1; got {given:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(given: &[(&str, &str)]) -> Result<Option<Variables>, String> {
        read(|name| given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn what_is_said_of_traces_goes_before_what_is_said_of_all() {
        let (protocol, endpoint) = (Protocol::Http, "http://localhost:4318".to_owned());
        let usual = Variables { protocol, endpoint, timeout: TIMEOUT, service: None };
        assert_eq!(with(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "")]), Ok(Some(usual)));
        let given = with(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_SERVICE_NAME", "edge"),
        ]);
        let (protocol, endpoint) = (Protocol::Grpc, "http://localhost:4317".to_owned());
        let service = Some("edge".to_owned());
        assert_eq!(given, Ok(Some(Variables { protocol, endpoint, timeout: Duration::from_millis(1500), service })));
    }

    #[test]
    fn nothing_is_sent_where_they_say_so() {
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(with(&[off]), Ok(None), "{off:?}");
        }
        let both = [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "otlp")];
        assert_eq!(with(&both), Ok(None));
    }

    #[test]
    fn what_would_be_no_use_is_an_error_that_names_its_variable() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "xray"),
        ] {
            let said = with(&[(name, value)]).expect_err(name);
            assert!(said.starts_with(name) && said.contains(value), "{said}");
        }
        for ratio in ["", "2", "-0.1", "NaN", "half"] {
            let said = with(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)]);
            assert!(said.is_err_and(|said| said.starts_with("OTEL_TRACES_SAMPLER_ARG")), "{ratio}");
        }
        let some = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.01")];
        assert!(with(&some).is_ok_and(|variables| variables.is_some()));
    }
}
