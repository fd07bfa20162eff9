//! F6 · Subscriptions whose publications come from the backend, each by a stream of its own.
//!
//! Owns which subscription has a stream, and what comes by it or goes into it. The stream ends with the subscription,
//! and the subscription with the stream. Never knows how a stream reaches the backend.

use super::backend::{ChannelStream, Handed, StreamNews};
use super::commands::Outcome;
use super::{Session, Turn};
use crate::protocol::code::{ClientError, INSUFFICIENT_STATE, UNSUBSCRIBED_BY_SERVER};
use crate::protocol::{Empty, Publication, PublishRequest, Push, Reply};
use compact_str::CompactString;

/// A subscription's stream.
#[derive(Debug)]
pub struct OwnStream {
    channel: CompactString,
    stream: ChannelStream,
}

impl Session {
    /// The stream of the subscription to `channel`, which begins now; the last one of that channel ends.
    pub(super) fn keep_stream(&mut self, channel: &str, stream: ChannelStream) {
        self.drop_stream(channel);
        self.more().streams.push(OwnStream { channel: channel.into(), stream });
    }

    /// The subscription is over, and with it the stream.
    pub(super) fn drop_stream(&mut self, channel: &str) {
        if let Some(more) = &mut self.more {
            more.streams.retain(|own| own.channel != channel);
            self.drop_more();
        }
    }

    pub(super) fn has_streams(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.streams.is_empty())
    }

    fn stream(&self, channel: &str) -> Option<&ChannelStream> {
        let more = self.more.as_ref()?;
        more.streams.iter().find(|own| own.channel == channel).map(|own| &own.stream)
    }

    /// Do the publications of the subscription to `channel` come by a stream?
    pub(super) fn is_streamed(&self, channel: &str) -> bool {
        self.stream(channel).is_some()
    }

    /// What the client publishes goes into its stream, and to nobody else.
    pub(super) fn publish_to_stream(&mut self, id: u32, request: PublishRequest, turn: &mut Turn<'_>) -> Outcome {
        match self.stream(&request.channel).map(|stream| stream.line.publish(request.data)) {
            Some(Handed::Taken) => {
                turn.fx.reply(self.wire, &Reply { id, publish: Some(Empty {}), ..Reply::default() });
                Ok(())
            }
            Some(Handed::Full) => Err(ClientError::TooManyRequests.into()),
            Some(Handed::OneWay) | None => Err(ClientError::NotAvailable.into()),
        }
    }

    /// Something came by the stream of that number, which may be over by now.
    pub fn handle_stream(&mut self, number: u64, news: StreamNews, turn: &mut Turn<'_>) {
        let of_number = |own: &&OwnStream| own.stream.number == number;
        let found = self.more.as_ref().and_then(|more| more.streams.iter().find(of_number));
        let Some(channel) = found.map(|own| own.channel.clone()) else { return };
        match news {
            StreamNews::Publication { data, tags, .. } => {
                let publication = Some(Publication { data, tags, ..Publication::default() });
                self.push(Push { channel: channel.into(), publication, ..Push::default() }, turn);
            }
            StreamNews::Ended { well } => {
                self.drop_stream(&channel);
                self.forget_wanted(&channel);
                if let Some(at) = self.find(&channel, turn) {
                    let why = if well { UNSUBSCRIBED_BY_SERVER } else { INSUFFICIENT_STATE };
                    self.take_away(at, why, turn);
                }
            }
        }
    }
}
