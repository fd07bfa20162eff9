"""Proves that calls have spans: a collector made of OpenTelemetry's own Python messages gets them from the server.

Calls come by HTTP and gRPC, messages from a real Redis, questions go to a proxy. Prints a line for each test, and at
last how many passed."""

import argparse
import contextlib
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import websockets.sync.client
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc

PATIENCE = 90
KEY = "test-api-key"
ALL = {"enabled": True, "api": True, "consuming": True, "proxy": True}
INTERNAL, SERVER, CLIENT, CONSUMER = 1, 2, 3, 5
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def traceparent(number, sampled=True):
    """Of a caller: its trace, its span, and the header that names them."""
    trace, span = f"{number:032x}", f"{number + 7:016x}"
    return trace, span, f"00-{trace}-{span}-{'01' if sampled else '00'}"


class Web(http.server.ThreadingHTTPServer):
    """Answers POST requests by `answer`, which is given the path, the headers and the body."""

    daemon_threads = True

    def __init__(self, answer):
        class Requests(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kind, said = answer(self.path, self.headers, body)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Requests)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Collector(service_grpc.TraceServiceServicer):
    """Takes spans by both protocols."""

    def __init__(self):
        self.changed = threading.Condition()
        self.spans, self.resource, self.tokens = [], {}, set()
        self.web = Web(self.posted)
        self.rpc = grpc.server(ThreadPoolExecutor(4))
        service_grpc.add_TraceServiceServicer_to_server(self, self.rpc)
        self.rpc_port = self.rpc.add_insecure_port("127.0.0.1:0")
        self.rpc.start()

    def variables(self, protocol):
        url = self.web.url if protocol == "http/protobuf" else f"http://127.0.0.1:{self.rpc_port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_HEADERS": "x-token=secret", "OTEL_SERVICE_NAME": "edge",
                "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}  # fmt: skip

    def posted(self, path, headers, body):
        assert path == "/v1/traces" and headers["Content-Type"] == "application/x-protobuf", (path, headers)
        self.take(service.ExportTraceServiceRequest.FromString(body), headers["x-token"])
        return "application/x-protobuf", b""

    def Export(self, request, context):
        self.take(request, dict(context.invocation_metadata()).get("x-token"))
        return service.ExportTraceServiceResponse()

    def take(self, request, token):
        with self.changed:
            self.tokens.add(token)
            for resource in request.resource_spans:
                self.resource = {it.key: it.value.string_value for it in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            self.changed.notify_all()

    def of(self, trace):
        return [span for span in self.spans if span.trace_id.hex() == trace]

    def wait(self, trace, count):
        """The spans of a trace by their names, once there are so many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.of(trace)) >= count, PATIENCE), self.of(trace)
            return {span.name: span for span in self.of(trace)}

    def wait_any(self):
        with self.changed:
            assert self.changed.wait_for(lambda: self.spans, PATIENCE)
            return list(self.spans)

    def close(self):
        self.web.shutdown()
        self.rpc.stop(None).wait()


def attributes(span):
    return {it.key: it.value.string_value or it.value.int_value for it in span.attributes}


def eventually(found):
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return value


class Server:
    def __init__(self, program, folder, variables, options):
        self.log = pathlib.Path(folder) / "log"
        (pathlib.Path(folder) / "config.json").write_text(json.dumps({
            "reactors": 2, "http_server": {"address": "127.0.0.1", "port": 0}, "prometheus": {"enabled": True},
            "http_api": {"key": KEY}, "client": {"insecure": True}, "log": {"level": "debug", "format": "json"},
            "shutdown": {"delay": "0s", "spread": "0s"}, "opentelemetry": ALL,
            "grpc_api": {"enabled": True, "address": "127.0.0.1", "port": 0, "key": KEY}, **options,
        }))  # fmt: skip
        known = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GANNET_"))}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program, "-c", f"{folder}/config.json"], env=known | variables,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        said = eventually(lambda: self.lines("listening") or self.process.poll() is not None)
        assert said is not True, self.log.read_text()
        self.http, self.rpc = said[0]["address"], said[0]["grpc"]

    def lines(self, message):
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in map(json.loads, lines) if line.get("message") == message]

    def call(self, method, body, **headers):
        headers = {"X-API-Key": KEY} | headers
        request = urllib.request.Request(f"http://{self.http}/api/{method}", json.dumps(body).encode(), headers)
        with NO_PROXY.open(request, timeout=PATIENCE) as response:
            return json.load(response)

    def call_rpc(self, method, body, *metadata):
        with grpc.insecure_channel(self.rpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.unary_unary(f"/centrifugal.centrifugo.api.CentrifugoApi/{method}")
            return call(body, metadata=[("authorization", f"apikey {KEY}"), *metadata], timeout=PATIENCE)

    def metric(self, name):
        with NO_PROXY.open(f"http://{self.http}/metrics", timeout=PATIENCE) as response:
            text = response.read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


@contextlib.contextmanager
def running(program, variables, **options):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(program, folder, variables, options)
        try:
            yield server
            if server.process.poll() is None:
                server.stop()
        finally:
            server.process.kill()
            server.process.wait()


@contextlib.contextmanager
def collecting():
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def child_of(child, parent):
    assert child.parent_span_id == parent.span_id, (child, parent)
    assert child.start_time_unix_nano >= parent.start_time_unix_nano, (child, parent)


def publishes(program, protocol):
    """By both APIs, with the backend's trace, over one of the protocols to the collector."""
    with collecting() as collector, running(program, collector.variables(protocol)) as server:
        trace, caller, header = traceparent(0x11)
        published = {"channel": "news", "data": {}}
        assert "result" in server.call("publish", published, traceparent=header)
        spans = collector.wait(trace, 2)
        assert spans["publish"].kind == SERVER and spans["publish"].parent_span_id.hex() == caller
        assert spans["owner"].kind == INTERNAL and attributes(spans["owner"])["gannet.channel"] == "news"
        child_of(spans["owner"], spans["publish"])
        assert attributes(spans["publish"]) == {"gannet.protocol": "http"}
        assert collector.tokens == {"secret"}
        known = {"service.name": "edge", "deployment.environment.name": "test", "telemetry.sdk.language": "rust"}
        assert known.items() <= collector.resource.items(), collector.resource
        line = eventually(lambda: server.lines("a call of the server API"))[0]
        assert line["trace_id"] == trace and line["request_id"], line

        trace, caller, header = traceparent(0x22)
        # The channel, and {} as data.
        server.call_rpc("Publish", b"\x0a\x04news\x12\x02{}", ("traceparent", header))
        spans = collector.wait(trace, 2)
        assert spans["publish"].kind == SERVER and spans["publish"].parent_span_id.hex() == caller
        child_of(spans["owner"], spans["publish"])
        assert attributes(spans["publish"]) == {"gannet.protocol": "grpc"}

        trace, _, header = traceparent(0x33)
        assert server.call("publish", {"channel": "no:news", "data": {}}, traceparent=header)["error"]["code"] == 102
        (span,) = collector.wait(trace, 1).values()
        assert attributes(span)["gannet.error_code"] == 102 and span.status.code == 2, span

        trace, _, header = traceparent(0x44)
        commands = [{"broadcast": {"channels": ["a", "b", "c"], "data": {}}}, {"info": {}}]
        assert len(server.call("batch", {"commands": commands}, traceparent=header)["replies"]) == 2
        spans = collector.wait(trace, 8)
        child_of(spans["broadcast"], spans["batch"])
        child_of(spans["info"], spans["batch"])
        child_of(spans["owner"], spans["broadcast"])
        child_of(spans["reactors"], spans["info"])
        owners = [attributes(span)["gannet.channel"] for span in collector.of(trace) if span.name == "owner"]
        assert sorted(owners) == ["a", "b", "c"] and spans["broadcast"].kind == INTERNAL

        trace, _, header = traceparent(0x55)
        body = {"channels": [f"c{number}" for number in range(500)], "data": {}}
        assert len(server.call("broadcast", body, traceparent=header)["result"]["responses"]) == 500
        collector.wait(trace, 128)
        assert server.metric('gannet_spans_dropped_total{reason="call"}') == 501 - 128
        assert server.metric("gannet_spans_sent_total") >= len(collector.spans) - 128

        # What is left is sent before the process ends.
        trace, _, header = traceparent(0x66)
        server.call("publish", published, traceparent=header)
        server.stop()
        assert len(collector.of(trace)) == 2, "nothing is lost when the node leaves"


def over_grpc(program):
    publishes(program, "grpc")


def over_http(program):
    publishes(program, "http/protobuf")


def sampling(program):
    """The caller's word holds, and without one the sampler's."""
    with collecting() as collector, running(program, collector.variables("http/protobuf")) as server:
        silent, _, header = traceparent(0x11, sampled=False)
        server.call("publish", {"channel": "news", "data": {}}, traceparent=header)
        lines = eventually(lambda: server.lines("a call of the server API"))
        assert lines[0]["trace_id"] == silent, "the log has it all the same"
        for wrong in ["", "00-0-0-01", f"00-{'0' * 32}-{'0' * 16}-01", "ff" + header[2:]]:
            server.call("publish", {"channel": "news", "data": {}}, traceparent=wrong)
        server.stop()
        assert collector.of(silent) == []
        roots = [span for span in collector.spans if span.name == "publish"]
        assert len(roots) == 4 and all(span.parent_span_id == b"" for span in roots), roots
    with collecting() as collector:
        variables = collector.variables("http/protobuf") | {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
        with running(program, variables) as server:
            trace, _, header = traceparent(0x22)
            server.call("publish", {"channel": "news", "data": {}})
            server.call("publish", {"channel": "news", "data": {}}, traceparent=header)
        assert len(collector.spans) == len(collector.of(trace)) == 2, collector.spans
    for options in [ALL | {"api": False}, ALL | {"enabled": False}]:
        variables = collector.variables("http/protobuf")
        with collecting() as collector, running(program, variables, opentelemetry=options) as server:
            server.call("publish", {"channel": "news", "data": {}}, traceparent=header)
            server.stop()
            assert collector.spans == []


def proxies(program):
    """A client's command asks the backend, which is told of a trace that begins here, whatever the client says."""
    asked = []

    def answer(path, headers, body):
        asked.append(headers["traceparent"])
        return "application/json", b'{"result": {"data": {}}}'

    backend = Web(answer)
    rpc = {"without_namespace": {"proxy_enabled": True},
           "proxy": {"endpoint": backend.url, "http_headers": ["traceparent"]}}  # fmt: skip
    with collecting() as collector, running(program, collector.variables("grpc"), rpc=rpc) as server:
        trace, span = calls(collector, server, 0x11)
        assert asked == [f"00-{trace}-{span}-01"], asked
        assert attributes(collector.of(trace)[0]) == {"gannet.proxy": "rpc.proxy", "url.full": backend.url}
    backend.shutdown()

    # The same by gRPC, where it is metadata.
    class Proxy(grpc.GenericRpcHandler):
        def service(self, call):
            assert call.method == "/centrifugal.centrifugo.proxy.CentrifugoProxy/RPC", call
            asked.append(dict(call.invocation_metadata)["traceparent"])
            # A message without fields is an answer.
            return grpc.unary_unary_rpc_method_handler(lambda _, context: b"")

    asked.clear()
    backend = grpc.server(ThreadPoolExecutor(4), handlers=[Proxy()])
    rpc["proxy"] = {"endpoint": f"grpc://127.0.0.1:{backend.add_insecure_port('127.0.0.1:0')}"}
    backend.start()
    with collecting() as collector, running(program, collector.variables("http/protobuf"), rpc=rpc) as server:
        trace, span = calls(collector, server, 0x22)
        assert asked == [f"00-{trace}-{span}-01"], asked
    backend.stop(None).wait()


def calls(collector, server, number):
    """A client calls, whose own request names another trace. The trace of the question, and its span."""
    foreign, _, header = traceparent(number)
    url = f"ws://{server.http}/connection/websocket"
    with websockets.sync.client.connect(url, proxy=None, additional_headers={"traceparent": header}) as client:
        client.send('{"id":1,"connect":{}}')
        client.recv(PATIENCE)
        client.send('{"id":2,"rpc":{"method":"m","data":{}}}')
        assert json.loads(client.recv(PATIENCE))["id"] == 2
    (found,) = collector.wait_any()
    assert (found.name, found.kind, found.parent_span_id) == ("rpc", CLIENT, b"")
    assert found.trace_id.hex() != foreign
    return found.trace_id.hex(), found.span_id.hex()


def consumers(program):
    """Messages of a stream go on with the trace that they name."""
    with collecting() as collector, tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis"
        redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder],
                                 stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            eventually(lambda: subprocess.run(["redis-cli", "-s", path, "ping"], capture_output=True).returncode == 0)
            trace, writer, header = traceparent(0x11)
            command = ["redis-cli", "-s", path, "XADD", "events", "*", "method", "publish"]
            added = [*command, "payload", '{"channel":"news","data":{}}', "traceparent", header]
            subprocess.run(added, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
            refused = traceparent(0x22)
            added = [*command, "payload", '{"channel":"no:news","data":{}}', "traceparent", refused[2]]
            subprocess.run(added, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
            stream = {"address": f"unix://{path}", "streams": ["events"], "consumer_group": "gannet"}
            reader = {"enabled": True, "name": "events", "type": "redis_stream", "redis_stream": stream}
            with running(program, collector.variables("http/protobuf"), consumers=[reader]) as server:
                spans = collector.wait(trace, 3)
                first = spans["process events"]
                assert first.kind == CONSUMER and first.parent_span_id.hex() == writer, first
                child_of(spans["publish"], first)
                child_of(spans["owner"], spans["publish"])
                assert spans["publish"].kind == INTERNAL
                assert attributes(spans["publish"])["gannet.protocol"] == "consumer"
                assert collector.wait(refused[0], 2)["process events"].status.code == 2
                skipped = eventually(lambda: server.lines("a message is skipped: who writes such must mend it"))
                assert skipped[0]["trace_id"] == refused[0], skipped
        finally:
            redis.kill()
            redis.wait()


def no_collector(program):
    """One that is away, or does not answer, costs spans and a line of the log, and no call."""
    for protocol, listens, reason in [("grpc", False, "collector"), ("http/protobuf", False, "collector"),
                                      ("grpc", True, "queue"), ("http/protobuf", True, "queue")]:  # fmt: skip
        with socket.socket() as away:
            # The port is nobody else's. Without listening it refuses; with it, it takes connections and says nothing.
            away.bind(("127.0.0.1", 0))
            if listens:
                away.listen(16)
            variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{away.getsockname()[1]}",
                         "OTEL_EXPORTER_OTLP_TIMEOUT": "600000" if listens else "500",
                         "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}  # fmt: skip
            options = ALL | {"queue_size": 4, "shutdown_timeout": "100ms"}
            with running(program, variables, opentelemetry=options) as server:

                def dropped():
                    server.call("publish", {"channel": "news", "data": {}})
                    return server.metric(f'gannet_spans_dropped_total{{reason="{reason}"}}') > 0

                eventually(dropped)
                if not listens:
                    said = "the collector does not take spans: is it there (OTEL_* variables)?"
                    assert eventually(lambda: server.lines(said))[0]["level"] == "WARN"
                assert server.metric("gannet_spans_sent_total") == 0


def refused_variables(program):
    """What the variables say wrongly is one line, and the node does not start."""
    for name, value in [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_TRACES_SAMPLER", "sometimes")]:
        command = [program, "--http_server.address=127.0.0.1", "--http_server.port=0", "--opentelemetry.enabled=true"]
        ended = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode == 2 and f"{name}: expected" in ended.stderr, ended


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    program = str(pathlib.Path(parser.parse_args().program).resolve())
    passed = failed = 0
    for test in [over_grpc, over_http, sampling, proxies, consumers, no_collector, refused_variables]:
        try:
            test(program)
            passed += 1
            print(f"ok      {test.__name__}", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED  {test.__name__}", flush=True)
    print(f"spans: {passed} passed, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
