//! F11 · One call of the server API, and what to do when it fails.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use super::{Place, Remote};
use crate::service::{FetchError, Http, post, tls_config};

/// A node with very many channels or clients takes its time.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer: that of a million channels fits.
const ANSWER_MAX: usize = 256 << 20;

pub struct ServerApi {
    runtime: Runtime,
    http: Http,
    place: Place,
    prefix: String,
    headers: HeaderMap,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Box<RawValue>>,
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    code: u32,
    message: String,
}

impl ServerApi {
    pub fn of(remote: &Remote<'_>) -> Result<ServerApi, String> {
        let place = remote.api_place()?;
        let key = remote.text("key").unwrap_or(&remote.config.http_api.key);
        let mut headers = HeaderMap::new();
        if !key.is_empty() {
            let value = HeaderValue::from_str(key).map_err(|_| "the key cannot be sent in a header".to_owned())?;
            headers.insert(HeaderName::from_static("x-api-key"), value);
        }
        let http = match remote.text("ca") {
            Some(file) if place.is_tls => Http::with_tls(tls_config(file)?, "")?,
            _ => Http::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        Ok(ServerApi { runtime, http, place, prefix: remote.config.http_api.handler_prefix.clone(), headers })
    }

    /// The result as the server wrote it.
    pub fn call(&self, method: &str, params: &impl Serialize) -> Result<Box<RawValue>, String> {
        let url = self.place.url(&format!("{}/{method}", self.prefix));
        let endpoint = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
        let body = Bytes::from(serde_json::to_vec(params).map_err(|error| error.to_string())?);
        let sent = self.http.send(post(&endpoint, self.headers.clone(), body), TIMEOUT, ANSWER_MAX);
        let body = self.runtime.block_on(sent).map_err(|error| self.advice(&url, &error))?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| format!("{url} answers, but not as this API: is another program there?"))?;
        match answer {
            Answer { error: Some(error), .. } => Err(refusal(&error)),
            Answer { result: Some(result), .. } => Ok(result),
            _ => Err(format!("{url} answers with neither a result nor an error")),
        }
    }

    fn advice(&self, url: &str, error: &FetchError) -> String {
        match error {
            FetchError::Unreachable(why) => format!("no server at {}: {why}\n{NO_SERVER}", self.place.url("")),
            FetchError::Status(401) if self.headers.is_empty() => format!("{url} wants a key\n{KEY}"),
            FetchError::Status(401) => format!("{url} refuses the key\n{KEY}"),
            FetchError::Status(404) => format!("there is no API at {url}\n{NO_API}"),
            other => format!("{url}: {other}"),
        }
    }
}

const NO_SERVER: &str = "Is it running? --url says where; without, the configuration (-c FILE) does.";
const KEY: &str = "Give the server's own configuration (-c FILE), $GANNET_HTTP_API_KEY or --key.";
const NO_API: &str = "With http_server.internal_port it is on that port; http_api.handler_prefix moves it.";

fn refusal(error: &Refused) -> String {
    let advice = match error.code {
        102 => "\nWhat stands before `:` in the name must be one of channel.namespaces.",
        107 => "\nA field is missing or out of its range, or the data has not the format of its namespace.",
        108 => "\nThe namespace keeps none: presence, or history_size with history_ttl.",
        _ => "",
    };
    format!("the server refuses: {} (error {}){advice}", error.message, error.code)
}
