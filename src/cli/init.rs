//! F11 · `gannet init`: a short configuration with secrets of its own, to begin with.
//!
//! Owns what stands in it and where it goes. A file that is there is never written over.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ArgMatches;

use crate::config::Format;

/// Bytes of a secret: as many as HMAC with SHA-256 makes use of.
const SECRET_SIZE: usize = 32;

/// What to print. With `-` for the file it is the configuration itself.
pub fn carry_out(matches: &ArgMatches) -> Result<String, String> {
    let path = matches.get_one::<String>("file").map_or("gannet.toml", String::as_str);
    let origin = matches.get_one::<String>("origin").map_or("", String::as_str);
    if path == "-" {
        return configuration(Format::Toml, origin);
    }
    let format =
        Format::of(path).ok_or_else(|| format!("{path}: expected a name that ends in .toml, .yaml or .json"))?;
    let text = configuration(format, origin)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => format!("{path} is there already: name another file, or move it away"),
        _ => format!("{path}: {error}"),
    })?;
    file.write_all(text.as_bytes()).map_err(|error| format!("{path}: {error}"))?;
    Ok(format!("{path} is written, for its owner alone: it has secrets.\nServe with it: gannet -c {path}\n"))
}

fn secret() -> Result<String, String> {
    let mut bytes = [0; SECRET_SIZE];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// An origin is a glob: what would need quoting is refused rather than quoted.
fn configuration(format: Format, origin: &str) -> Result<String, String> {
    if origin.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        return Err(format!("--origin: expected the origin of a web page, https://example.com; got {origin:?}"));
    }
    let form = match format {
        Format::Toml => TOML,
        Format::Yaml => YAML,
        Format::Json => JSON,
    };
    let text = form.replace("ORIGIN", origin).replace("TOKEN_SECRET", &secret()?);
    Ok(text.replace("API_KEY", &secret()?))
}

const TOML: &str = r#"# Every other option with what it does: gannet config

[client]
# Web pages that may connect. Programs that are no browsers send no origin.
allowed_origins = ["ORIGIN"]

[client.token]
# The backend signs tokens of clients with it. For a try: gannet token --user 42 -c FILE
hmac_secret_key = "TOKEN_SECRET"

[http_api]
# The backend sends it as X-API-Key.
key = "API_KEY"

[channel.without_namespace]
# Whoever has a token may subscribe to any channel whose name has no namespace.
allow_subscribe_for_client = true
"#;

const YAML: &str = r#"# Every other option with what it does: gannet config

client:
  # Web pages that may connect. Programs that are no browsers send no origin.
  allowed_origins: ["ORIGIN"]
  token:
    # The backend signs tokens of clients with it. For a try: gannet token --user 42 -c FILE
    hmac_secret_key: "TOKEN_SECRET"

http_api:
  # The backend sends it as X-API-Key.
  key: "API_KEY"

channel:
  without_namespace:
    # Whoever has a token may subscribe to any channel whose name has no namespace.
    allow_subscribe_for_client: true
"#;

const JSON: &str = r#"{
  "client": {
    "allowed_origins": ["ORIGIN"],
    "token": {"hmac_secret_key": "TOKEN_SECRET"}
  },
  "http_api": {"key": "API_KEY"},
  "channel": {
    "without_namespace": {"allow_subscribe_for_client": true}
  }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, load};

    #[test]
    fn each_form_loads_without_a_word_and_has_secrets_of_its_own() {
        let mut keys = Vec::new();
        for (format, name) in [(Format::Toml, "a.toml"), (Format::Yaml, "a.yaml"), (Format::Json, "a.json")] {
            let text = configuration(format, "https://example.com").expect("a configuration");
            let (config, warnings) = load(Some(File { name, text: &text }), &[], &[]).expect("it loads");
            assert!(warnings.is_empty(), "{name}: {warnings:?}");
            assert_eq!(config.client.allowed_origins, ["https://example.com"]);
            keys.extend([config.client.token.hmac_secret_key, config.http_api.key]);
        }
        assert!(keys.iter().all(|key| key.len() == 43), "{keys:?}");
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
        assert!(configuration(Format::Json, "\"").is_err());
    }
}
