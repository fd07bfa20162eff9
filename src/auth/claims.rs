//! F2 · What a token says, once it is known to be good.
//!
//! Owns the claims of both kinds of token as the JSON has them and as the caller gets them. Never judges a signature,
//! a time or a permission.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use compact_str::CompactString;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a connection token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// "" = anonymous.
    pub user: CompactString,
    /// JSON shown to others as `conn_info`; empty = none.
    pub info: Bytes,
    /// JSON for the backend alone; empty = none.
    pub meta: Bytes,
    /// Seconds since 1970; `None` = the connection does not expire.
    pub expire_at: Option<u64>,
    /// Server-side subscriptions without more to say about them.
    pub channels: Vec<CompactString>,
    /// Server-side subscriptions, by channel.
    pub subs: Vec<(CompactString, SubClaims)>,
}

/// What a connection token says about one of its subscriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubClaims {
    /// Shown to others as `chan_info`; empty = none.
    pub info: Bytes,
    /// For the client itself; empty = none.
    pub data: Bytes,
    pub overrides: Overrides,
}

/// What a subscription token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelClaims {
    /// "" = anonymous.
    pub user: CompactString,
    /// "" = none is named, which fits no channel.
    pub channel: CompactString,
    /// The one client it is for.
    pub client: Option<CompactString>,
    /// Shown to others as `chan_info`; empty = none.
    pub info: Bytes,
    /// For the client itself; empty = none.
    pub data: Bytes,
    /// Seconds since 1970; `None` = the subscription does not expire.
    pub expire_at: Option<u64>,
    pub overrides: Overrides,
}

/// Options of the channel's namespace that are different for this subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_push_join_leave: Option<bool>,
    pub force_recovery: Option<bool>,
    pub force_positioning: Option<bool>,
}

/// Something has not the type it must have.
#[derive(Debug)]
pub(super) struct WrongType;

type Raw<'a> = Option<&'a RawValue>;

/// The claims as they stand in the token. Times are NumericDates (RFC 7519 section 2): seconds, a fraction allowed.
/// What only one kind of token gives a meaning is read when that kind is: elsewhere it may be anything.
#[derive(Deserialize)]
pub(super) struct RawClaims<'a> {
    #[serde(default, deserialize_with = "time")]
    pub exp: Option<f64>,
    #[serde(default, deserialize_with = "time")]
    pub nbf: Option<f64>,
    #[serde(default, deserialize_with = "time")]
    expire_at: Option<f64>,
    #[serde(borrow)]
    sub: Raw<'a>,
    #[serde(borrow)]
    iss: Raw<'a>,
    #[serde(borrow)]
    aud: Raw<'a>,
    #[serde(borrow)]
    info: Raw<'a>,
    #[serde(borrow)]
    b64info: Raw<'a>,
    #[serde(borrow)]
    meta: Raw<'a>,
    #[serde(borrow)]
    data: Raw<'a>,
    #[serde(borrow)]
    b64data: Raw<'a>,
    #[serde(borrow)]
    channel: Raw<'a>,
    #[serde(borrow)]
    client: Raw<'a>,
    #[serde(borrow)]
    channels: Raw<'a>,
    #[serde(borrow)]
    subs: Raw<'a>,
    #[serde(borrow, rename = "override")]
    overrides: Raw<'a>,
}

#[derive(Deserialize, Default)]
struct RawSub<'a> {
    #[serde(borrow)]
    info: Raw<'a>,
    #[serde(borrow)]
    b64info: Raw<'a>,
    #[serde(borrow)]
    data: Raw<'a>,
    #[serde(borrow)]
    b64data: Raw<'a>,
    #[serde(borrow, rename = "override")]
    overrides: Raw<'a>,
}

#[derive(Deserialize, Default)]
struct RawOverrides {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_push_join_leave: Option<Switch>,
    force_recovery: Option<Switch>,
    force_positioning: Option<Switch>,
}

#[derive(Deserialize)]
struct Switch {
    #[serde(default)]
    value: bool,
}

impl<'a> RawClaims<'a> {
    pub(super) fn parse(json: &'a [u8]) -> Result<RawClaims<'a>, WrongType> {
        serde_json::from_slice(json).map_err(|_| WrongType)
    }

    pub(super) fn issuer(&self) -> Result<Option<String>, WrongType> {
        read(self.iss)
    }

    /// One text or a list of them.
    pub(super) fn audiences(&self) -> Result<Vec<String>, WrongType> {
        match self.aud {
            Some(list) if list.get().starts_with('[') => Ok(read(self.aud)?.unwrap_or_default()),
            _ => Ok(read::<String>(self.aud)?.into_iter().collect()),
        }
    }

    /// Whether it is of a subscription token.
    pub(super) fn names_channel(&self) -> bool {
        self.channel.is_some()
    }

    pub(super) fn user(&self) -> Result<CompactString, WrongType> {
        Ok(read(self.sub)?.unwrap_or_default())
    }

    pub(super) fn connection(&self, user: CompactString) -> Result<Claims, WrongType> {
        let subs: BTreeMap<CompactString, Option<RawSub<'_>>> = read(self.subs)?.unwrap_or_default();
        let subs = subs.into_iter().map(|(channel, sub)| Ok((channel, sub.unwrap_or_default().claims()?)));
        let subs = subs.collect::<Result<Vec<_>, WrongType>>()?;
        let channels: Vec<CompactString> = read(self.channels)?.unwrap_or_default();
        Ok(Claims {
            user,
            info: payload(self.info, self.b64info)?,
            meta: payload(self.meta, None)?,
            expire_at: self.expire_at(),
            // Who has both means the one that says more.
            channels: if subs.is_empty() { channels } else { Vec::new() },
            subs,
        })
    }

    pub(super) fn subscription(&self, user: CompactString) -> Result<ChannelClaims, WrongType> {
        let client: Option<CompactString> = read(self.client)?;
        Ok(ChannelClaims {
            user,
            channel: read(self.channel)?.unwrap_or_default(),
            client: client.filter(|client| !client.is_empty()),
            info: payload(self.info, self.b64info)?,
            data: payload(self.data, self.b64data)?,
            expire_at: self.expire_at(),
            overrides: overrides(self.overrides)?,
        })
    }

    fn expire_at(&self) -> Option<u64> {
        match self.expire_at {
            Some(at) => (at > 0.0).then_some(at as u64),
            None => self.exp.map(|exp| exp as u64),
        }
    }
}

impl RawSub<'_> {
    fn claims(&self) -> Result<SubClaims, WrongType> {
        Ok(SubClaims {
            info: payload(self.info, self.b64info)?,
            data: payload(self.data, self.b64data)?,
            overrides: overrides(self.overrides)?,
        })
    }
}

/// The user by a claim of another name than `sub`. Providers have numbers there as well.
pub(super) fn user_of_claim(json: &[u8], claim: &str) -> Result<CompactString, WrongType> {
    let claims: BTreeMap<std::borrow::Cow<'_, str>, &RawValue> = serde_json::from_slice(json).map_err(|_| WrongType)?;
    let Some(value) = claims.get(claim) else { return Ok(CompactString::default()) };
    let text = value.get();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.into());
    }
    Ok(read(Some(*value))?.unwrap_or_default())
}

/// A NumericDate; libraries that write all claims as text are taken too.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<'a> {
        Number(f64),
        Text(#[serde(borrow)] std::borrow::Cow<'a, str>),
    }
    match Option::<Written<'de>>::deserialize(deserializer)? {
        Some(Written::Text(text)) => {
            // As JSON writes numbers: "inf" and "+1" are none.
            let number = serde_json::from_str(&text).map_err(serde::de::Error::custom)?;
            Ok(Some(number))
        }
        Some(Written::Number(number)) => Ok(Some(number)),
        None => Ok(None),
    }
}

/// `null` is as good as nothing.
fn read<'a, T: Deserialize<'a>>(value: Raw<'a>) -> Result<Option<T>, WrongType> {
    value.map_or(Ok(None), |value| serde_json::from_str(value.get()).map_err(|_| WrongType))
}

fn overrides(value: Raw<'_>) -> Result<Overrides, WrongType> {
    let raw: RawOverrides = read(value)?.unwrap_or_default();
    let on = |switch: Option<Switch>| switch.map(|switch| switch.value);
    Ok(Overrides {
        presence: on(raw.presence),
        join_leave: on(raw.join_leave),
        force_push_join_leave: on(raw.force_push_join_leave),
        force_recovery: on(raw.force_recovery),
        force_positioning: on(raw.force_positioning),
    })
}

/// Base64 goes before JSON.
fn payload(json: Raw<'_>, base64: Raw<'_>) -> Result<Bytes, WrongType> {
    match read::<String>(base64)? {
        Some(text) if !text.is_empty() => STANDARD.decode(text).map(Bytes::from).map_err(|_| WrongType),
        _ => Ok(json.map_or(Bytes::new(), |json| Bytes::copy_from_slice(json.get().as_bytes()))),
    }
}
