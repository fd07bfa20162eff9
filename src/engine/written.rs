//! F10 · A publication as nodes tell it to each other, by whichever engine.
//!
//! Owns its Protobuf, which is that of clients and some more fields. Knows nothing of what stands around it.

use crate::protocol::{ClientInfo, Publication};
use bytes::Bytes;
use prost::Message;
use std::collections::HashMap;

/// A publication with all that nodes tell each other of it.
#[derive(Clone, PartialEq, Message)]
pub struct Written {
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    #[prost(message, optional, tag = "5")]
    pub info: Option<ClientInfo>,
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    #[prost(map = "string, string", tag = "7")]
    pub tags: HashMap<String, String>,
    /// Without a place in a stream: those who take deltas may get one.
    #[prost(bool, tag = "8")]
    pub delta: bool,
    /// Milliseconds since 1970, by the clock of the node that took it.
    #[prost(int64, tag = "9")]
    pub time: i64,
    #[prost(string, tag = "14")]
    pub epoch: String,
    #[prost(bytes = "bytes", tag = "15")]
    pub prev_data: Bytes,
    #[prost(uint64, tag = "16")]
    pub version: u64,
}

impl Written {
    /// `publication`, which was taken at `unix_ms`. It has no offset: that is a stream's to give.
    pub fn of(publication: &Publication, unix_ms: u64) -> Written {
        let Publication { data, info, tags, version, .. } = publication.clone();
        let time = i64::try_from(unix_ms).unwrap_or_default();
        Written { data, info, tags, time, version, ..Written::default() }
    }
}
