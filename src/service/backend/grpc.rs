//! F10 · Questions and answers of a proxy by gRPC, the way Centrifugo puts and reads them.
//!
//! Owns the connection to one backend, the calls, and what its messages mean. Which question goes where, and how often,
//! is the proxy's to know.

use super::granted::{EitherPayload, GrantedConnect, GrantedPublish, GrantedRefresh, GrantedSub, unless_empty};
use super::messages::*;
use super::stream::ClientPublications;
use super::wire;
use crate::auth::Overrides;
use crate::config::{ProxyOptions, grpc_authority};
use crate::protocol::{ConnectRequest, SubscribeRequest};
use crate::service::fetch::{self, CallClient, FetchError};
use crate::service::tls;
use crate::session::backend::{Ask, Said, Who};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Status};
use tonic_prost::ProstCodec;

/// Headers of HTTP that mean nothing to a call, or mean the call itself.
const OWN: [&str; 9] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// A backend that is asked by gRPC.
pub struct Caller {
    client: CallClient,
    origin: Uri,
    timeout: Duration,
    size_max: usize,
    compression: bool,
}

impl Caller {
    /// `None` if the proxy's endpoint is none of gRPC. The error is a sentence for the operator.
    pub fn new(options: &ProxyOptions, size_max: usize) -> Result<Option<Caller>, String> {
        let Some(authority) = grpc_authority(&options.endpoint) else { return Ok(None) };
        let tls = &options.grpc.tls;
        let (scheme, config) = match tls.enabled {
            true => ("https", tls::client_config(tls).map_err(|error| format!("grpc.tls.{error}"))?),
            false => ("http", tls::none()),
        };
        let origin = format!("{scheme}://{authority}").parse().map_err(|error| format!("{authority:?}: {error}"))?;
        let client = fetch::call_client(config, &tls.server_name)?;
        let (timeout, compression) = (options.timeout, options.grpc.compression);
        Ok(Some(Caller { client, origin, timeout, size_max, compression }))
    }

    /// Puts the question and reads the answer.
    pub async fn put(&self, put: Asking<'_>, headers: HeaderMap) -> Result<Said, FetchError> {
        let Asking { who, ask, binary, meta } = put;
        let (client, transport) = (who.client.clone(), who.transport.to_owned());
        let (protocol, encoding) = (wire::protocol(who.encoding).to_owned(), wire::encoding(binary).to_owned());
        let (user, meta) = (who.user.to_string(), if meta { who.meta.to_vec() } else { Vec::new() });
        let (data, b64data) = payload(ask, binary);
        let channel = |name: &str| name.to_owned();
        match ask {
            Ask::Connect(connect) => {
                let who = (client, transport, protocol, encoding);
                self.connect(who, connect, (data, b64data), headers).await
            }
            Ask::Refresh => {
                let question = RefreshQuestion { client, transport, protocol, encoding, user, meta };
                let answer: RefreshAnswer = self.call("Refresh", question, headers).await?;
                let said = said(answer.error, answer.disconnect, || GrantedRefresh::said(answer.result.map(refresh)));
                said.map(wire::over_if_refused)
            }
            Ask::SubRefresh { channel: name } => {
                let channel = channel(name);
                let question = SubRefreshQuestion { client, transport, protocol, encoding, user, channel, meta };
                let answer: SubRefreshAnswer = self.call("SubRefresh", question, headers).await?;
                let said = said(answer.error, answer.disconnect, || GrantedRefresh::said(answer.result.map(refresh)));
                said.map(wire::over_if_refused)
            }
            Ask::Subscribe(subscribe) => {
                let question = subscribe_question(put, subscribe);
                subscribe_said(self.call("Subscribe", question, headers).await?)
            }
            Ask::Publish(publish) => {
                let channel = channel(&publish.channel);
                let question =
                    PublishQuestion { client, transport, protocol, encoding, user, channel, data, b64data, meta };
                let answer: PublishAnswer = self.call("Publish", question, headers).await?;
                said(answer.error, answer.disconnect, || publish_of(answer.result.unwrap_or_default()).said())
            }
            Ask::Rpc(rpc) => {
                let method = rpc.method.clone();
                let question = RpcQuestion { client, transport, protocol, encoding, user, method, data, b64data, meta };
                let answer: RpcAnswer = self.call("RPC", question, headers).await?;
                said(answer.error, answer.disconnect, || {
                    let result = answer.result.unwrap_or_default();
                    let data = EitherPayload::unless_empty(result.data, result.b64data).read()?;
                    Ok(Said::Rpc(data.unwrap_or_default()))
                })
            }
            Ask::SubscribeStream(_) | Ask::Keys { .. } | Ask::Check(_) => {
                Err(FetchError::Unreadable("what a token is, or a stream, is no answer to one call".into()))
            }
        }
    }

    async fn connect(
        &self,
        (client, transport, protocol, encoding): (String, String, String, String),
        connect: &ConnectRequest,
        (data, b64data): (Vec<u8>, String),
        headers: HeaderMap,
    ) -> Result<Said, FetchError> {
        let mut channels: Vec<String> = connect.subs.keys().cloned().collect();
        channels.sort_unstable();
        let (name, version) = (connect.name.clone(), connect.version.clone());
        let question =
            ConnectQuestion { client, transport, protocol, encoding, data, b64data, name, version, channels };
        let answer: ConnectAnswer = self.call("Connect", question, headers).await?;
        said(answer.error, answer.disconnect, || match answer.result {
            None => Ok(Said::NoCredentials),
            Some(result) => connect_of(result).said(),
        })
    }

    async fn call<Q, A>(&self, method: &'static str, question: Q, headers: HeaderMap) -> Result<A, FetchError>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let mut request = tonic::Request::new(question);
        *request.metadata_mut() = metadata(headers);
        request.set_timeout(self.timeout);
        let path = path(method)?;
        let call = async {
            grpc.ready().await.map_err(unreachable)?;
            grpc.unary(request, path, ProstCodec::<Q, A>::default()).await.map_err(failure)
        };
        let answer = tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(FetchError::Late))?;
        Ok(answer.into_inner())
    }

    fn grpc(&self) -> Grpc<CallClient> {
        let grpc = Grpc::with_origin(self.client.clone(), self.origin.clone())
            .max_decoding_message_size(self.size_max)
            .accept_compressed(CompressionEncoding::Gzip);
        if self.compression { grpc.send_compressed(CompressionEncoding::Gzip) } else { grpc }
    }

    /// Opens a subscription stream, into which `up` goes if it has two directions. What its first message says, and
    /// where the others come from.
    pub async fn open(
        &self,
        put: Asking<'_>,
        headers: HeaderMap,
        up: Option<ClientPublications>,
    ) -> Result<(Said, StreamAnswers), FetchError> {
        let Ask::SubscribeStream(subscribe) = put.ask else {
            return Err(FetchError::Unreadable("only a subscription has a stream".into()));
        };
        let (question, metadata) = (subscribe_question(put, subscribe), metadata(headers));
        let call = async {
            let mut grpc = self.grpc();
            grpc.ready().await.map_err(unreachable)?;
            let answers = match up {
                None => {
                    let request = tonic::Request::from_parts(metadata, Extensions::default(), question);
                    let codec = ProstCodec::<SubscribeQuestion, StreamAnswer>::default();
                    grpc.server_streaming(request, path("SubscribeUnidirectional")?, codec).await
                }
                Some(up) => {
                    let request =
                        tonic::Request::from_parts(metadata, Extensions::default(), said_upwards(question, up));
                    let codec = ProstCodec::<StreamQuestion, StreamAnswer>::default();
                    grpc.streaming(request, path("SubscribeBidirectional")?, codec).await
                }
            };
            let mut answers = answers.map_err(failure)?.into_inner();
            let first = answers.message().await.map_err(failure)?;
            Ok((first.and_then(|first| first.subscribe_response), answers))
        };
        // The call itself goes on for as long as it likes.
        let opened = tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(FetchError::Late))?;
        let (Some(answer), answers) = opened else {
            return Err(FetchError::Unreadable("a stream begins with a subscribe_response".into()));
        };
        Ok((subscribe_said(answer)?, answers))
    }
}

/// What comes in a stream after its first message.
pub type StreamAnswers = tonic::Streaming<StreamAnswer>;

/// All that this side says in a stream.
fn said_upwards(question: SubscribeQuestion, up: ClientPublications) -> impl Stream<Item = StreamQuestion> + Send {
    let first = StreamQuestion { subscribe_request: Some(question), publication: None };
    let rest = stream::unfold(up, |mut up| async move {
        let publication = StreamPublication { data: up.next().await?, ..StreamPublication::default() };
        Some((StreamQuestion { subscribe_request: None, publication: Some(publication) }, up))
    });
    stream::iter([first]).chain(rest)
}

fn path(method: &str) -> Result<PathAndQuery, FetchError> {
    let path = format!("/centrifugal.centrifugo.proxy.CentrifugoProxy/{method}");
    PathAndQuery::try_from(path).map_err(|error| FetchError::Unreadable(error.to_string()))
}

fn unreachable(error: impl std::error::Error) -> FetchError {
    FetchError::Unreachable(fetch::chain(&error))
}

fn subscribe_question(put: Asking<'_>, subscribe: &SubscribeRequest) -> SubscribeQuestion {
    let Asking { who, ask, binary, meta } = put;
    let (data, b64data) = payload(ask, binary);
    SubscribeQuestion {
        client: who.client.clone(),
        transport: who.transport.to_owned(),
        protocol: wire::protocol(who.encoding).to_owned(),
        encoding: wire::encoding(binary).to_owned(),
        user: who.user.to_string(),
        channel: subscribe.channel.clone(),
        token: subscribe.token.clone(),
        meta: if meta { who.meta.to_vec() } else { Vec::new() },
        data,
        b64data,
    }
}

fn subscribe_said(answer: SubscribeAnswer) -> Result<Said, FetchError> {
    said(answer.error, answer.disconnect, || subscribe_of(answer.result.unwrap_or_default().into()).said())
}

/// What is asked, and how.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub who: &'a Who,
    pub ask: &'a Ask,
    /// Payloads as base64.
    pub binary: bool,
    /// What is known of the client goes with it.
    pub meta: bool,
}

/// Does a call that ends so say that the backend does not work? Else it has answered.
pub fn is_failure(code: Code) -> bool {
    !matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

fn failure(status: Status) -> FetchError {
    // The connection's error is below the status.
    let below = std::error::Error::source(&status).map(fetch::chain);
    match (status.code(), below) {
        (Code::DeadlineExceeded, _) => FetchError::Late,
        (Code::Unavailable | Code::Unknown, Some(why)) => FetchError::Unreachable(why),
        // Tonic's own words, the second for an answer that was compressed.
        (Code::OutOfRange, _) if status.message().contains("decoded message length too large") => FetchError::TooLarge,
        (Code::ResourceExhausted, _) if status.message().contains("exceeded while decompressing") => {
            FetchError::TooLarge
        }
        (code, _) => FetchError::Refused(code, status.message().chars().take(200).collect()),
    }
}

/// Headers as metadata; those of HTTP itself, and those of gRPC, are not sent on.
fn metadata(mut headers: HeaderMap) -> MetadataMap {
    let is_own = |name: &HeaderName| OWN.contains(&name.as_str()) || name.as_str().starts_with("grpc-");
    let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
    MetadataMap::from_headers(headers)
}

/// The payload of a question: as it is, or as base64.
fn payload(ask: &Ask, binary: bool) -> (Vec<u8>, String) {
    let data = match ask {
        Ask::Connect(connect) => &connect.data,
        Ask::Subscribe(subscribe) | Ask::SubscribeStream(subscribe) => &subscribe.data,
        Ask::Publish(publish) => &publish.data,
        Ask::Rpc(rpc) => &rpc.data,
        Ask::Refresh | Ask::SubRefresh { .. } | Ask::Keys { .. } | Ask::Check(_) => return Default::default(),
    };
    if binary { (Vec::new(), STANDARD.encode(data)) } else { (data.to_vec(), String::new()) }
}

/// A disconnect goes before an error, and that before a result.
fn said(
    error: Option<ErrorMessage>,
    disconnect: Option<DisconnectMessage>,
    grant: impl FnOnce() -> Result<Said, String>,
) -> Result<Said, FetchError> {
    let said = match (disconnect, error) {
        (Some(said), _) => wire::disconnect(said.code, said.reason),
        (None, Some(said)) => Ok(wire::error(said.code, said.message, said.temporary)),
        (None, None) => grant(),
    };
    said.map_err(FetchError::Unreadable)
}

fn connect_of(result: ConnectResultMessage) -> GrantedConnect {
    GrantedConnect {
        user: result.user,
        expire_at: result.expire_at,
        info: EitherPayload::unless_empty(result.info, result.b64info),
        data: EitherPayload::unless_empty(result.data, result.b64data),
        meta: unless_empty(result.meta),
        channels: result.channels,
        subs: result.subs.into_iter().map(|(channel, sub)| (channel, subscribe_of(sub))).collect(),
    }
}

impl From<SubscribeResultMessage> for SubscribeOptionsMessage {
    fn from(result: SubscribeResultMessage) -> SubscribeOptionsMessage {
        let SubscribeResultMessage { expire_at, info, b64info, data, b64data, overrides, server_tags_filter } = result;
        SubscribeOptionsMessage { expire_at, info, b64info, data, b64data, overrides, server_tags_filter }
    }
}

fn subscribe_of(result: SubscribeOptionsMessage) -> GrantedSub {
    let value = |switch: Option<SwitchMessage>| switch.map(|switch| switch.value);
    let overrides = result.overrides.map(|set| Overrides {
        presence: value(set.presence),
        join_leave: value(set.join_leave),
        force_push_join_leave: value(set.force_push_join_leave),
        force_recovery: value(set.force_recovery),
        force_positioning: value(set.force_positioning),
    });
    GrantedSub {
        expire_at: result.expire_at,
        info: EitherPayload::unless_empty(result.info, result.b64info),
        data: EitherPayload::unless_empty(result.data, result.b64data),
        overrides,
        is_filtered: result.server_tags_filter.is_some(),
    }
}

fn refresh(result: RefreshResultMessage) -> GrantedRefresh {
    GrantedRefresh {
        expired: result.expired,
        expire_at: result.expire_at,
        info: EitherPayload::unless_empty(result.info, result.b64info),
        meta: unless_empty(result.meta),
    }
}

fn publish_of(result: PublishResultMessage) -> GrantedPublish {
    let data = EitherPayload::unless_empty(result.data, result.b64data);
    GrantedPublish { data, skip_history: result.skip_history, tags: result.tags }
}
