//! F10 · From a message as its source has it to what is asked of the API.
//!
//! Owns both forms: a command (method and payload), and data of a publication with headers that say where it goes.
//! Knows no source, and carries out nothing.

use crate::config::{PublicationHeaders, PublicationValues};
use crate::service::ConsumedPublication;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;

/// A message of whatever source. What is a header elsewhere may be a value, an attribute or a column.
#[derive(Debug, Clone, Default)]
pub struct Consumed<'a> {
    pub body: Bytes,
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Consumed<'a> {
    /// `None` if it is not there or empty, or if the source has no name for it.
    fn header(&self, name: &str) -> Result<Option<&'a str>, String> {
        let found = self.headers.iter().find(|(header, _)| !name.is_empty() && *header == name);
        match found.map(|(_, value)| std::str::from_utf8(value)) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(format!("{name} is not UTF-8")),
        }
    }
}

/// What a message asks for.
pub enum Demand<'a> {
    Command { method: Cow<'a, str>, payload: Cow<'a, str> },
    Publication(ConsumedPublication),
}

/// How messages of a source are read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Form {
    /// The header that has the method, if there is one.
    pub method: String,
    /// Set if messages are data of publications.
    pub publication: Option<PublicationHeaders>,
}

impl Form {
    pub fn of_headers(method: &str, mode: &PublicationHeaders) -> Form {
        Form { method: method.to_owned(), publication: mode.enabled.then(|| mode.clone()) }
    }

    pub fn of_values(method: &str, mode: &PublicationValues) -> Form {
        let mode = mode.clone();
        let publication = mode.enabled.then_some(PublicationHeaders {
            enabled: true,
            channels_header: mode.channels_value,
            idempotency_key_header: mode.idempotency_key_value,
            delta_header: mode.delta_value,
            version_header: mode.version_value,
            version_epoch_header: mode.version_epoch_value,
            tags_header_prefix: mode.tags_value_prefix,
        });
        Form { method: method.to_owned(), publication }
    }

    /// The error is what is wrong with the message, without its content.
    pub fn read<'a>(&self, message: &'a Consumed<'_>) -> Result<Demand<'a>, String> {
        match &self.publication {
            Some(names) => publication(names, message).map(Demand::Publication),
            None => self.command(message),
        }
    }

    fn command<'a>(&self, message: &'a Consumed<'_>) -> Result<Demand<'a>, String> {
        let body = std::str::from_utf8(&message.body).map_err(|_| "the message is not UTF-8".to_owned())?;
        if let Some(method) = message.header(&self.method)? {
            return Ok(Demand::Command { method: method.into(), payload: body.into() });
        }
        /// Both in one.
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            method: Cow<'a, str>,
            #[serde(borrow)]
            payload: &'a RawValue,
        }
        let Envelope { method, payload } =
            serde_json::from_str(body).map_err(|error| format!("the message has no method and payload: {error}"))?;
        // Programs that copy rows of databases may have the payload as a text.
        let payload = match payload.get().starts_with('"') {
            true => Cow::from(serde_json::from_str::<String>(payload.get()).map_err(|error| error.to_string())?),
            false => payload.get().into(),
        };
        Ok(Demand::Command { method, payload })
    }
}

fn publication(names: &PublicationHeaders, message: &Consumed<'_>) -> Result<ConsumedPublication, String> {
    let text = |name: &str| message.header(name).map(|text| text.unwrap_or_default().to_owned());
    let channels = text(&names.channels_header)?;
    let channels: Vec<String> =
        channels.split(',').map(str::trim).filter(|it| !it.is_empty()).map(Into::into).collect();
    if channels.is_empty() {
        return Err(format!("the message has no channels in {}", names.channels_header));
    }
    let delta = match message.header(&names.delta_header)? {
        None => false,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(_) => return Err(format!("{} is neither true nor false", names.delta_header)),
    };
    let version = match message.header(&names.version_header)? {
        None => 0,
        Some(text) => text.parse().map_err(|_| format!("{} is no whole number", names.version_header))?,
    };
    let mut tags = HashMap::new();
    for (name, value) in &message.headers {
        let tag = name.strip_prefix(&*names.tags_header_prefix).filter(|_| !names.tags_header_prefix.is_empty());
        if let Some(tag) = tag {
            let value = std::str::from_utf8(value).map_err(|_| format!("{name} is not UTF-8"))?;
            tags.insert(tag.to_owned(), value.to_owned());
        }
    }
    Ok(ConsumedPublication {
        channels,
        data: message.body.clone(),
        idempotency_key: text(&names.idempotency_key_header)?,
        delta,
        version,
        version_epoch: text(&names.version_epoch_header)?,
        tags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(body: &str, headers: &[(&'a str, &'a str)]) -> Consumed<'a> {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        Consumed { body: body.to_owned().into(), headers }
    }

    #[test]
    fn commands_come_whole_or_with_the_method_beside_them() {
        let form = Form { method: "m".into(), publication: None };
        let read = |body: &str, headers: &[(&str, &str)]| match form.read(&message(body, headers)) {
            Ok(Demand::Command { method, payload }) => Ok((method.into_owned(), payload.into_owned())),
            Ok(Demand::Publication(_)) => panic!("a publication"),
            Err(why) => Err(why),
        };
        let publish = |payload: &str| Ok(("publish".to_owned(), payload.to_owned()));
        assert_eq!(read(r#"{"a": 1}"#, &[("m", "publish")]), publish(r#"{"a": 1}"#));
        assert_eq!(read(r#"{"method":"publish","payload":{"a": 1}}"#, &[("m", "")]), publish(r#"{"a": 1}"#));
        assert_eq!(read(r#"{"payload":"{\"a\":1}","method":"publish","x":2}"#, &[]), publish(r#"{"a":1}"#));
        for bad in ["", "1", "[]", r#"{"method":"publish"}"#, r#"{"payload":{}}"#, r#"{"method":1,"payload":{}}"#] {
            let why = read(bad, &[("other", "publish")]).expect_err(bad);
            assert!(why.starts_with("the message has no method and payload: "), "{why}");
        }
        let raw = Consumed { body: Bytes::from_static(b"\xff"), headers: Vec::new() };
        assert!(form.read(&raw).is_err());
        let raw = Consumed { body: Bytes::from_static(b"{}"), headers: vec![("m", b"\xff")] };
        assert!(form.read(&raw).is_err());
    }

    #[test]
    fn data_goes_where_its_headers_say() {
        let form = Form::of_headers("", &PublicationHeaders { enabled: true, ..PublicationHeaders::default() });
        let values = PublicationValues { enabled: true, ..PublicationValues::default() };
        assert_eq!(Form::of_values("", &values), form, "values and headers have the same names");
        let read = |headers: &[(&str, &str)]| match form.read(&message("data", headers)) {
            Ok(Demand::Publication(found)) => Ok(found),
            Ok(Demand::Command { .. }) => panic!("a command"),
            Err(why) => Err(why),
        };
        let full = read(&[
            ("centrifugo-channels", "a, b,,c"),
            ("centrifugo-idempotency-key", "k"),
            ("centrifugo-delta", "true"),
            ("centrifugo-version", "18446744073709551615"),
            ("centrifugo-version-epoch", "e"),
            ("centrifugo-tag-x", "1"),
            ("other", "2"),
        ]);
        let full = full.expect("read");
        assert_eq!(full.channels, ["a", "b", "c"]);
        assert_eq!((&*full.data, &*full.idempotency_key, full.delta), (&b"data"[..], "k", true));
        assert_eq!((full.version, &*full.version_epoch), (u64::MAX, "e"));
        assert_eq!(full.tags, HashMap::from([("x".to_owned(), "1".to_owned())]));
        let channels = ("centrifugo-channels", "a");
        let plain = read(&[channels]).expect("read");
        assert_eq!((plain.version, plain.delta, plain.tags.len(), &*plain.idempotency_key), (0, false, 0, ""));
        for bad in [
            &[][..],
            &[("centrifugo-channels", " ,")],
            &[channels, ("centrifugo-delta", "yes")],
            &[channels, ("centrifugo-version", "-1")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
