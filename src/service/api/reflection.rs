//! F10 · What the gRPC API tells programs of itself: grpc.reflection.v1 and v1alpha, as grpcurl and the like ask them.
//!
//! Owns the description of the service, which is made from the messages themselves and so cannot differ from them, and
//! the limits of calls that ask for it. Nobody needs a key: it is no secret which methods there are.

use super::grpc::{GrpcRequest, GrpcResponse};
use super::messages::Shape;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    MethodDescriptorProto, ServiceDescriptorProto,
};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::codegen::Service;
use tonic_reflection::server::{Builder, Error};

const PACKAGE: &str = "centrifugal.centrifugo.api";
const SERVICE: &str = "CentrifugoApi";
const V1: &str = "/grpc.reflection.v1.ServerReflection/";
const V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/";
/// Such calls at the same time on the node: who asks has shown no key.
const CALLS_MAX: usize = 64;
/// How long one may go on asking.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a question, which is a name.
const QUESTION_MAX: usize = 4096;

type Answering = Pin<Box<dyn Future<Output = GrpcResponse> + Send>>;
type Answerer = Box<dyn Fn(hyper::Request<Asking>) -> Answering + Send + Sync>;

/// Both versions of the protocol, made when the first asks.
#[derive(Clone)]
pub struct Reflection {
    versions: Arc<OnceLock<Option<[Answerer; 2]>>>,
    room: Arc<Semaphore>,
}

impl Reflection {
    pub fn new() -> Reflection {
        Reflection { versions: Arc::default(), room: Arc::new(Semaphore::new(CALLS_MAX)) }
    }

    /// Is the call one of its own?
    pub fn is_asked(request: &GrpcRequest) -> bool {
        let path = request.uri().path();
        path.starts_with(V1) || path.starts_with(V1ALPHA)
    }

    pub async fn answer(&self, request: GrpcRequest) -> GrpcResponse {
        let Ok(permit) = self.room.clone().try_acquire_owned() else {
            return Status::resource_exhausted("many ask for reflection: try again").into_http();
        };
        let versions = self.versions.get_or_init(|| match answerers() {
            Ok(versions) => Some(versions),
            Err(error) => {
                tracing::error!(%error, "gRPC reflection cannot be served");
                None
            }
        });
        let Some([v1, v1alpha]) = versions else { return Status::internal("cannot be served").into_http() };
        let answerer = if request.uri().path().starts_with(V1) { v1 } else { v1alpha };
        let end = Box::pin(tokio::time::sleep(CALL_TIMEOUT));
        answerer(request.map(|body| Asking { body, end, _permit: permit })).await
    }
}

fn answerers() -> Result<[Answerer; 2], Error> {
    let v1 = Builder::configure().register_file_descriptor_set(described()).build_v1()?;
    let v1alpha = Builder::configure().register_file_descriptor_set(described()).build_v1alpha()?;
    let (v1, v1alpha) = (v1.max_decoding_message_size(QUESTION_MAX), v1alpha.max_decoding_message_size(QUESTION_MAX));
    Ok([answerer(v1), answerer(v1alpha)])
}

fn answerer<S>(service: S) -> Answerer
where
    S: Service<hyper::Request<Asking>, Response = GrpcResponse, Error = std::convert::Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    Box::new(move |request| {
        let answered = service.clone().call(request);
        Box::pin(async move {
            let Ok(response) = answered.await;
            response
        })
    })
}

/// The questions of a call, which end when its time is over.
struct Asking {
    body: Incoming,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Body for Asking {
    type Data = <Incoming as Body>::Data;
    type Error = <Incoming as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The file that Centrifugo calls api.proto, as far as it is served.
fn described() -> FileDescriptorSet {
    let mut file = FileDescriptorProto {
        name: Some("api.proto".into()),
        package: Some(PACKAGE.into()),
        syntax: Some("proto3".into()),
        ..FileDescriptorProto::default()
    };
    file.message_type
        .extend(super::messages::shapes().filter(|shape| shape.name != "Empty").map(|shape| message(&shape)));
    let mut methods = Vec::new();
    for (name, request) in super::grpc_methods() {
        let [request, result, answer] = [written(request), format!("{name}Result"), format!("{name}Response")];
        if !file.message_type.iter().any(|known| known.name.as_ref() == Some(&result)) {
            file.message_type.push(DescriptorProto { name: Some(result.clone()), ..DescriptorProto::default() });
        }
        let fields = [
            ("error", "message, optional, tag = \"1\"", "Error"),
            ("result", "message, optional, tag = \"2\"", &*result),
        ];
        file.message_type.push(message(&Shape { name: &answer, fields: &fields }));
        methods.push(method(name, &request, &answer));
    }
    let batch = super::batch_shapes();
    file.message_type.extend(batch.map(|shape| message(&shape)));
    methods.push(method("Batch", "BatchRequest", "BatchResponse"));
    let service = ServiceDescriptorProto { name: Some(SERVICE.into()), method: methods, options: None };
    file.service.push(service);
    FileDescriptorSet { file: vec![file] }
}

fn method(name: &str, request: &str, answer: &str) -> MethodDescriptorProto {
    MethodDescriptorProto {
        name: Some(name.into()),
        input_type: Some(full(request)),
        output_type: Some(full(answer)),
        ..MethodDescriptorProto::default()
    }
}

fn full(name: &str) -> String {
    format!(".{PACKAGE}.{name}")
}

/// A message by its fields, as the macro has them.
fn message(shape: &Shape<'_>) -> DescriptorProto {
    let name = written(shape.name);
    let mut made = DescriptorProto { name: Some(name.clone()), ..DescriptorProto::default() };
    for (field, kind, of) in shape.fields {
        let parts: Vec<&str> = kind.split('"').collect();
        // What stands in quotes: the tag is last, and in front of it what bytes or maps are.
        let tag = parts.iter().rev().nth(1).and_then(|tag| tag.parse().ok());
        let word = kind.split([',', ' ', '=']).next().unwrap_or_default();
        let (kind, label) = match (word, kind.contains("repeated")) {
            ("map" | "btree_map", _) => {
                let value = parts.get(1).and_then(|pair| pair.split_once(", ")).map_or("", |(_, value)| value);
                let entry = entry(field, value, of);
                let of = format!("{}.{}", full(&name), entry.name());
                made.nested_type.push(entry);
                ((Type::Message, Some(of)), Label::Repeated)
            }
            (word, true) => (typed(word, of), Label::Repeated),
            (word, false) => (typed(word, of), Label::Optional),
        };
        made.field.push(field_of(field.trim_start_matches("r#"), tag, label, kind));
    }
    made
}

fn field_of(name: &str, number: Option<i32>, label: Label, (kind, of): (Type, Option<String>)) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number,
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name: of,
        ..FieldDescriptorProto::default()
    }
}

/// The message that an entry of a map is.
fn entry(field: &str, value: &str, of: &str) -> DescriptorProto {
    let mut name: String = field.split('_').map(capitalized).collect();
    name.push_str("Entry");
    DescriptorProto {
        name: Some(name),
        field: vec![
            field_of("key", Some(1), Label::Optional, (Type::String, None)),
            field_of("value", Some(2), Label::Optional, typed(value, of)),
        ],
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    }
}

fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    first.to_uppercase() + rest
}

/// A type by prost's word for it; `of`: Rust's, for a message's name.
fn typed(word: &str, of: &str) -> (Type, Option<String>) {
    let kind = match word {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "uint32" => Type::Uint32,
        "uint64" => Type::Uint64,
        "double" => Type::Double,
        _ => return (Type::Message, Some(full(&written(innermost(of))))),
    };
    (kind, None)
}

/// `Option<Vec<Response<PublishResult>>>` is about `Response<PublishResult>`, and that is `PublishResponse`.
fn innermost(of: &str) -> &str {
    let inner = of.trim_end_matches(['>', ' ']);
    let inner = inner.rsplit(['<', ',']).next().unwrap_or(inner).trim();
    match of.contains("Response") {
        true => inner.strip_suffix("Result").map_or(inner, |_| "PublishResponse"),
        false => inner,
    }
}

/// A name of Rust's as Centrifugo writes it.
fn written(name: &str) -> String {
    match name.strip_prefix("Rpc") {
        Some(rest) => format!("RPC{rest}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What is described holds together: every type that is named is there, and no number is twice in a message.
    #[test]
    fn the_description_is_whole() {
        let set = described();
        let file = &set.file[0];
        let mut names = BTreeSet::new();
        for message in &file.message_type {
            assert!(names.insert(full(message.name())), "{} is there twice", message.name());
            for entry in &message.nested_type {
                names.insert(format!("{}.{}", full(message.name()), entry.name()));
            }
        }
        let all = file.message_type.iter().chain(file.message_type.iter().flat_map(|message| &message.nested_type));
        for message in all {
            let numbers: BTreeSet<i32> = message.field.iter().map(FieldDescriptorProto::number).collect();
            assert_eq!(numbers.len(), message.field.len(), "{message:?}");
            assert!(!numbers.contains(&0), "{message:?}");
            for field in &message.field {
                assert!(field.type_name.is_none() || names.contains(field.type_name()), "{field:?}");
            }
        }
        let methods = &file.service[0].method;
        assert_eq!(methods.len(), super::super::grpc_methods().count() + 1);
        for method in methods {
            assert!(names.contains(method.input_type()) && names.contains(method.output_type()), "{method:?}");
        }
    }

    /// Some of the names and numbers of Centrifugo's api.proto, written here by hand.
    #[test]
    fn the_description_is_centrifugo_s() {
        let set = described();
        let find = |message: &str, field: &str| {
            let found = set.file[0].message_type.iter().find(|known| known.name() == message).expect(message);
            let field = found.field.iter().find(|known| known.name() == field).expect(field);
            (
                field.number(),
                field.r#type(),
                field.label(),
                field.type_name().rsplit('.').next().expect("a name").to_owned(),
            )
        };
        let (one, many) = (Label::Optional, Label::Repeated);
        for (message, field, expected) in [
            ("PublishRequest", "data", (2, Type::Bytes, one, "")),
            ("PublishRequest", "tags", (5, Type::Message, many, "TagsEntry")),
            ("SubscribeRequest", "override", (10, Type::Message, one, "SubscribeOptionOverride")),
            ("SubscribeRequest", "recover_since", (9, Type::Message, one, "StreamPosition")),
            ("StreamPosition", "offset", (1, Type::Uint64, one, "")),
            ("BroadcastRequest", "channels", (1, Type::String, many, "")),
            ("BroadcastResult", "responses", (1, Type::Message, many, "PublishResponse")),
            ("PresenceResult", "presence", (1, Type::Message, many, "PresenceEntry")),
            ("RPCResponse", "result", (2, Type::Message, one, "RPCResult")),
            ("Command", "rpc", (14, Type::Message, one, "RPCRequest")),
            ("Reply", "error", (2, Type::Message, one, "Error")),
            ("Reply", "unsubscribe", (7, Type::Message, one, "UnsubscribeResult")),
            ("BatchRequest", "commands", (1, Type::Message, many, "Command")),
            ("Metrics", "interval", (1, Type::Double, one, "")),
        ] {
            let (number, kind, label, of) = expected;
            assert_eq!(find(message, field), (number, kind, label, of.to_owned()), "{message}.{field}");
        }
    }
}
