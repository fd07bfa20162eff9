//! F10 · What a backend grants, whichever way its answer came.
//!
//! Owns what the parts of an answer come to: base64 or plain, absent or empty, and what must not be passed over. Knows
//! neither JSON nor Protobuf.

use crate::auth::Overrides;
use crate::session::backend::{ConnectGrant, PublishGrant, RefreshGrant, Said, SubscribeGrant};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// Bytes that an answer holds as they are or as base64, or not at all.
#[derive(Default)]
pub struct EitherPayload {
    pub plain: Option<Bytes>,
    pub base64: Option<String>,
}

impl EitherPayload {
    /// Of a form that knows nothing that is absent: empty is.
    pub fn unless_empty(plain: Vec<u8>, base64: String) -> EitherPayload {
        EitherPayload { plain: unless_empty(plain), base64: Some(base64) }
    }

    /// Base64 wins.
    pub fn read(self) -> Result<Option<Bytes>, String> {
        Ok(decoded(self.base64)?.or(self.plain))
    }

    /// What is plain wins, and then nobody looks at the base64.
    fn read_plain_first(self) -> Result<Option<Bytes>, String> {
        match self.plain {
            Some(plain) => Ok(Some(plain)),
            None => decoded(self.base64),
        }
    }
}

pub fn unless_empty(bytes: Vec<u8>) -> Option<Bytes> {
    (!bytes.is_empty()).then(|| bytes.into())
}

fn decoded(base64: Option<String>) -> Result<Option<Bytes>, String> {
    match base64 {
        Some(text) if !text.is_empty() => {
            STANDARD.decode(text).map(|bytes| Some(bytes.into())).map_err(|error| format!("no base64: {error}"))
        }
        _ => Ok(None),
    }
}

fn seconds(at: i64) -> u64 {
    u64::try_from(at).unwrap_or(0)
}

#[derive(Default)]
pub struct GrantedSub {
    pub expire_at: i64,
    pub info: EitherPayload,
    pub data: EitherPayload,
    pub overrides: Option<Overrides>,
    /// It has a server_tags_filter, which narrows what the client gets: to skip it would be a leak.
    pub is_filtered: bool,
}

impl GrantedSub {
    pub fn read(self) -> Result<SubscribeGrant, String> {
        if self.is_filtered {
            return Err("server_tags_filter is not offered".into());
        }
        Ok(SubscribeGrant {
            expire_at: seconds(self.expire_at),
            info: self.info.read()?.unwrap_or_default(),
            data: self.data.read()?.unwrap_or_default(),
            overrides: self.overrides.unwrap_or_default(),
        })
    }

    pub fn said(self) -> Result<Said, String> {
        Ok(Said::Subscribe(Box::new(self.read()?)))
    }
}

#[derive(Default)]
pub struct GrantedConnect {
    pub user: String,
    pub expire_at: i64,
    pub info: EitherPayload,
    pub data: EitherPayload,
    pub meta: Option<Bytes>,
    /// Those without a word more; what `subs` says of one goes before it.
    pub channels: Vec<String>,
    pub subs: Vec<(String, GrantedSub)>,
}

impl GrantedConnect {
    pub fn said(self) -> Result<Said, String> {
        let plain = self.channels.into_iter().map(|channel| (channel, SubscribeGrant::default()));
        let mut subs: BTreeMap<String, SubscribeGrant> = plain.collect();
        for (channel, sub) in self.subs {
            subs.insert(channel, sub.read()?);
        }
        Ok(Said::Connect(Box::new(ConnectGrant {
            user: self.user.into(),
            expire_at: seconds(self.expire_at),
            info: self.info.read()?.unwrap_or_default(),
            meta: self.meta.unwrap_or_default(),
            data: self.data.read()?.unwrap_or_default(),
            subs: subs.into_iter().collect(),
        })))
    }
}

#[derive(Default)]
pub struct GrantedRefresh {
    pub expired: bool,
    pub expire_at: i64,
    pub info: EitherPayload,
    pub meta: Option<Bytes>,
}

impl GrantedRefresh {
    /// No result at all ends what was to be refreshed.
    pub fn said(result: Option<GrantedRefresh>) -> Result<Said, String> {
        Ok(Said::Refresh(match result {
            Some(result) if !result.expired => RefreshGrant {
                expired: false,
                expire_at: seconds(result.expire_at),
                info: result.info.read()?,
                meta: result.meta,
            },
            _ => RefreshGrant { expired: true, ..RefreshGrant::default() },
        }))
    }
}

#[derive(Default)]
pub struct GrantedPublish {
    pub data: EitherPayload,
    pub skip_history: bool,
    pub tags: HashMap<String, String>,
}

impl GrantedPublish {
    pub fn said(self) -> Result<Said, String> {
        let (data, skip_history, tags) = (self.data.read_plain_first()?, self.skip_history, self.tags);
        Ok(Said::Publish(Box::new(PublishGrant { data, skip_history, tags })))
    }
}
