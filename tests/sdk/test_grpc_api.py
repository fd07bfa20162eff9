"""Proves that the server API answers grpcio, whose messages are made here from Centrifugo's field numbers."""

import re

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import proto_reflection_descriptor_database, reflection_pb2

from server import API_KEY, LOGS, start_server

TEXT, BYTES, UINT64, UINT32, INT32 = 9, 12, 4, 13, 5
MESSAGES = {
    "Error": [("code", 1, UINT32), ("message", 2, TEXT)],
    "PublishRequest": [("channel", 1, TEXT), ("data", 2, BYTES), ("idempotency_key", 6, TEXT)],
    "PublishResult": [("offset", 1, UINT64), ("epoch", 2, TEXT)],
    "PublishResponse": [("error", 1, "Error"), ("result", 2, "PublishResult")],
    "HistoryRequest": [("channel", 1, TEXT), ("limit", 2, INT32)],
    "Publication": [("data", 2, BYTES), ("offset", 4, UINT64)],
    "HistoryResult": [("publications", 1, ["Publication"]), ("epoch", 2, TEXT), ("offset", 3, UINT64)],
    "HistoryResponse": [("error", 1, "Error"), ("result", 2, "HistoryResult")],
}
SERVICE = "/centrifugal.centrifugo.api.CentrifugoApi"


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="api", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            repeated = isinstance(kind, list)
            kind = kind[0] if repeated else kind
            made = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                made.type, made.type_name = 11, f".api.{kind}"
            else:
                made.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"api.{name}")) for name in MESSAGES}


M = _messages()


def _address(server):
    log = (LOGS / f"{server.port}.log").read_text()
    return re.findall(r'"?grpc"?[=:]"?(127\.0\.0\.1:\d+)', log)[-1]


@pytest.fixture(scope="module")
def channel():
    with start_server(
        "--grpc_api.enabled", "--grpc_api.address", "127.0.0.1", "--grpc_api.port", "0", "--grpc_api.key", API_KEY,
        "--grpc_api.reflection", "--log.format", "json",
        "--channel.without_namespace.history_size", "5", "--channel.without_namespace.history_ttl", "60s",
    ) as server:  # fmt: skip
        with grpc.insecure_channel(_address(server), options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield channel


@pytest.fixture(scope="module")
def call(channel):
    def call(method, key=API_KEY, messages=M, **fields):
        ask = channel.unary_unary(
            f"{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages[f"{method}Response"].FromString,
        )
        request = messages[f"{method}Request"](**fields)
        return ask(request, timeout=10, metadata=[("authorization", f"apikey {key}")])

    return call


def test_calls_are_answered(call):
    first = call("Publish", channel="talk", data=b'{"n":1}', idempotency_key="k")
    assert first.result.offset == 1 and not first.HasField("error")
    assert call("Publish", channel="talk", data=b"2", idempotency_key="k") == first
    history = call("History", channel="talk", limit=-1).result
    assert [(one.data, one.offset) for one in history.publications] == [(b'{"n":1}', 1)]
    assert (history.offset, history.epoch) == (1, first.result.epoch)


def test_an_error_is_in_the_answer(call):
    answer = call("Publish", channel="nowhere:x", data=b"1")
    assert (answer.error.code, answer.error.message) == (102, "unknown channel")
    assert not answer.HasField("result")


def test_a_key_is_needed(call):
    with pytest.raises(grpc.RpcError) as error:
        call("Publish", key="another", channel="talk", data=b"1")
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_client_is_made_from_what_the_server_tells(channel, call):
    database = proto_reflection_descriptor_database.ProtoReflectionDescriptorDatabase(channel)
    assert sorted(database.get_services()) == [
        "centrifugal.centrifugo.api.CentrifugoApi", "grpc.reflection.v1alpha.ServerReflection",
    ]  # fmt: skip
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName("centrifugal.centrifugo.api.CentrifugoApi")
    methods = {method.name: method for method in service.methods}
    assert len(methods) == 17 and methods["RPC"].input_type.name == "RPCRequest"
    told = {}
    for method in service.methods:
        for message in (method.input_type, method.output_type):
            told[message.name] = message_factory.GetMessageClass(message)
    first = call("Publish", messages=told, channel="told", data=b'{"n":1}', tags={"a": "b"})
    assert first.result.offset == 1
    history = call("History", messages=told, channel="told", limit=-1).result
    assert history.publications[0].tags["a"] == "b"
    # The messages above were written by hand: the server tells the same of each.
    for name, fields in MESSAGES.items():
        message = pool.FindMessageTypeByName(f"centrifugal.centrifugo.api.{name}")
        assert [(field, message.fields_by_name[field].number) for field, _, _ in fields] == [
            (field, number) for field, number, _ in fields
        ]


def test_both_versions_of_reflection_are_served(channel):
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="centrifugal.centrifugo.api.Publication")
    unknown = reflection_pb2.ServerReflectionRequest(file_containing_symbol="centrifugal.centrifugo.api.Nothing")
    for version in ("v1", "v1alpha"):
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answers = list(ask(iter([request, request]), timeout=10))
        assert [len(answer.file_descriptor_response.file_descriptor_proto) for answer in answers] == [1, 1]
        with pytest.raises(grpc.RpcError) as error:
            list(ask(iter([unknown]), timeout=10))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
