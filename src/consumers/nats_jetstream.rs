//! F10 · A stream of NATS JetStream as a source, by a durable consumer that is pulled from.
//!
//! Owns the consumer in the server, and acknowledging. Never knows what a message asks for.

use super::Source;
use super::content::Consumed;
use super::feed::{Fate, Feed, Pauses, before_stop};
use crate::config::NatsJetStreamConsumer;
use crate::service::client_tls;
use async_nats::jetstream::consumer::pull::{self, Stream};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::{self, AckKind, Context, Message};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use futures_util::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What is not acknowledged within this is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that says nothing for twice this is gone.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Messages that wait here, at most.
const BATCH_MAX: usize = 256;
/// Acknowledgements are to be with the server before the node goes.
const LAST_FLUSH: Duration = Duration::from_secs(3);

pub struct NatsJetStream {
    options: NatsJetStreamConsumer,
    servers: Vec<ServerAddr>,
    tls: Option<rustls::ClientConfig>,
}

/// The error is about an option.
pub fn sources(options: &NatsJetStreamConsumer) -> Result<Vec<NatsJetStream>, String> {
    let urls = options.url.iter().flat_map(|entry| entry.split(',')).map(str::trim).filter(|url| !url.is_empty());
    // Its own words might quote the password.
    let form = "nats_jetstream.url: expected nats://host:port";
    let servers = urls.map(|url| url.parse().map_err(|_| form.to_owned())).collect::<Result<Vec<_>, _>>()?;
    let tls = match options.tls.enabled {
        true => Some(client_tls(&options.tls).map_err(|error| format!("nats_jetstream.tls.{error}"))?),
        false => None,
    };
    Ok(vec![NatsJetStream { options: options.clone(), servers, tls }])
}

impl Source for NatsJetStream {
    async fn read(&mut self, feed: &Feed) -> Result<(), String> {
        let lost = Arc::new(Notify::new());
        let Some(connected) = before_stop(feed, self.connect(lost.clone())).await else { return Ok(()) };
        let client = connected?;
        let begun = before_stop(feed, self.begin(jetstream::new(client.clone()), &client)).await;
        let Some(messages) = begun else { return Ok(()) };
        let mut messages = messages?;
        feed.reached();
        while feed.room().await {
            let next = tokio::select! {
                biased;
                () = feed.stopped() => break,
                () = lost.notified() => return Err("the connection was lost".into()),
                next = messages.next() => next,
            };
            let message = next.ok_or("the server ended the consumer")?.map_err(|error| error.to_string())?;
            self.serve(feed, &message).await?;
        }
        // What came and was not carried out is for other nodes at once.
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            acknowledge(&message, AckKind::Nak(None)).await?;
        }
        let _ = tokio::time::timeout(LAST_FLUSH, client.flush()).await;
        Ok(())
    }
}

impl NatsJetStream {
    async fn connect(&self, lost: Arc<Notify>) -> Result<Client, String> {
        let options = &self.options;
        let mut login =
            ConnectOptions::new().name("gannet").connection_timeout(CONNECT_TIMEOUT).event_callback(move |event| {
                // Another connection is made from the start, and then what was pulled is pulled again.
                if matches!(event, Event::Disconnected | Event::Closed) {
                    lost.notify_one();
                }
                std::future::ready(())
            });
        if !options.credentials_file.is_empty() {
            let file = std::fs::read_to_string(&options.credentials_file)
                .map_err(|error| format!("nats_jetstream.credentials_file: {error}"))?;
            login = login.credentials(&file).map_err(|_| "nats_jetstream.credentials_file: expected a .creds file")?;
        } else if !options.username.is_empty() {
            login = login.user_and_password(options.username.clone(), options.password.clone());
        } else if !options.token.is_empty() {
            login = login.token(options.token.clone());
        }
        if let Some(tls) = &self.tls {
            login = login.tls_client_config(tls.clone()).require_tls(true);
        }
        login.connect(self.servers.clone()).await.map_err(|error| error.to_string())
    }

    /// Finds the consumer, or makes it, and begins to pull.
    async fn begin(&self, context: Context, client: &Client) -> Result<Stream, String> {
        let options = &self.options;
        let (stream, name) = (&*options.stream_name, &*options.durable_consumer_name);
        let consumer: Consumer<pull::Config> = match options.use_existing_consumer {
            true => context.get_consumer_from_stream(name, stream).await,
            false => context.create_consumer_on_stream(self.wanted(client)?, stream).await,
        }
        .map_err(|error| format!("consumer {name:?} of stream {stream:?}: {error}"))?;
        let batch = options.max_ack_pending.min(BATCH_MAX);
        let pulled = consumer.stream().max_messages_per_batch(batch).heartbeat(HEARTBEAT).messages().await;
        pulled.map_err(|error| error.to_string())
    }

    fn wanted(&self, client: &Client) -> Result<pull::Config, String> {
        let options = &self.options;
        let mut config = pull::Config {
            durable_name: Some(options.durable_consumer_name.clone()),
            deliver_policy: if options.deliver_policy == "all" { DeliverPolicy::All } else { DeliverPolicy::New },
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: options.max_ack_pending as i64,
            ..pull::Config::default()
        };
        match &options.subjects[..] {
            [] => {}
            [subject] => config.filter_subject = subject.clone(),
            // Older servers would pass over them, and deliver all.
            _ if !client.is_server_compatible(2, 10, 0) => {
                return Err("several subjects take NATS 2.10: give one, or a consumer for each".into());
            }
            several => config.filter_subjects = several.to_vec(),
        }
        Ok(config)
    }

    async fn serve(&self, feed: &Feed, message: &Message) -> Result<(), String> {
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        // Of several values of a header the first counts.
        let headers = headers.filter_map(|(name, values)| Some((name.as_ref(), values.first()?.as_str().as_bytes())));
        let consumed = Consumed { body: message.payload.clone(), headers: headers.collect() };
        let verdict = feed.carry_out(&consumed).await;
        let info = message.info().map_err(|error| error.to_string())?;
        feed.set_lag(info.pending);
        let kind = match verdict {
            Fate::Done => AckKind::Ack,
            Fate::Again => AckKind::Nak(Some(Pauses::after(info.delivered.unsigned_abs()))),
            Fate::Stopping => AckKind::Nak(None),
        };
        acknowledge(message, kind).await
    }
}

async fn acknowledge(message: &Message, kind: AckKind) -> Result<(), String> {
    message.ack_with(kind).await.map_err(|error| error.to_string())
}
