#!/usr/bin/env python3
"""Proves that Prometheus takes what a server that has worked tells, and that what deploy/ makes of it fits: no series is
there twice (which promtool does not look for), rules and dashboard name only metrics that are there, each alert fires
and stays quiet as its tests say and has its runbook, and a real Prometheus scrapes and answers every query.

    metrics.py BIN    BIN: the folder with promtool and prometheus

Ends with "metrics: N passed, M failed".
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/sdk"))
from server import get, start_server  # noqa: E402

RULES, TESTS = ROOT / "deploy/prometheus/gannet.rules.yml", ROOT / "deploy/prometheus/gannet.test.yml"
PATIENCE = 60
# Channels of both kinds of engines, and archived ones.
NAMESPACES = json.dumps([
    {"name": "over", "engine": "nats"},
    {"name": "kept", "engine": "memory", "history_size": 10, "history_ttl": "1h", "history_durability": "batched"},
])  # fmt: skip
# Its source is away, which is no reason not to be seen.
CONSUMERS = json.dumps([{"enabled": True, "name": "jobs", "type": "redis_stream", "redis_stream": {
    "address": ["redis://127.0.0.1:1"], "streams": ["jobs"], "consumer_group": "gannet"}}])  # fmt: skip
# Whatever has metrics only if it is on, is on.
ALL_ON = (
    "--prometheus.enabled", "--prometheus.instrument_http_handlers", "--client.insecure",
    "--client.proxy.connect.enabled", "--client.proxy.connect.endpoint", "http://127.0.0.1:1/",
    "--hooks.endpoint", "http://127.0.0.1:1/",
)  # fmt: skip


@contextlib.contextmanager
def engines():
    """A Redis and a NATS that listen; the options that name them."""
    ports = []
    for _ in range(2):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        for command in (
            ["redis-server", "--bind", "127.0.0.1", "--port", str(ports[0]), "--save", "", "--dir", folder],
            ["nats-server", "--addr", "127.0.0.1", "--port", str(ports[1])],
        ):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            started.callback(process.wait)
            started.callback(process.kill)
        for port in ports:
            until(f"a server at {port}", lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close() or True)
        yield (
            "--engine.type", "redis", "--engine.redis.address", f"127.0.0.1:{ports[0]}",
            "--engine.nats.url", f"nats://127.0.0.1:{ports[1]}", "--channel.namespaces", NAMESPACES,
            "--durable.path", f"{folder}/archive", "--consumers", CONSUMERS,
        )  # fmt: skip


def of_kafka():
    """Builds with Kafka alone have these."""
    return set(re.findall(r'"(gannet_kafka_log_\w+)"', (ROOT / "src/kafka/log.rs").read_text()))


def until(what, holds):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if holds():
                return
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def work(server):
    """A client comes, is refused and goes; the backend publishes: so every kind of metric moves."""
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(request.encode())
        assert b" 101 " in client.recv(4096)
        mask = os.urandom(4)
        connect = b'{"id":1,"connect":{}}'
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(connect))
        client.sendall(bytes([0x81, 0x80 | len(connect)]) + mask + masked)
        assert client.recv(4096)
    server.api("publish", channel="news", data={})


def series(text):
    return [re.match(r'[^{\s]+(\{(?:[^"}]|"(?:\\.|[^"\\])*")*\})?', line).group(0)
            for line in text.splitlines() if line and not line.startswith("#")]  # fmt: skip


def names_of(text):
    """Every name that a query may have: those of a histogram's series too."""
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in kinds for part in parts.get(kind, ("",))}


def unknown(queries, known):
    named = {name for query in queries for name in re.findall(r"\b(?:gannet|process)_[a-z_]+\b", query)}
    return sorted(named - known)


def expressions():
    """Queries of rules and dashboard. The rules are lines of one form: no parser of YAML is needed for them."""
    rules = [match.replace("''", "'") for match in re.findall(r"^ +expr: '(.*)'$", RULES.read_text(), re.M)]
    panels = json.loads((ROOT / "deploy/grafana/gannet.json").read_text())["panels"]
    panels += [inner for row in panels for inner in row.get("panels", [])]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    variables = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m", "$quantile": "0.99"}
    for name, value in variables.items():
        shown = [query.replace(name, value) for query in shown]
    assert len(rules) > 10 and len(shown) > 30
    return rules, shown


def tool(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def runbooks():
    alerts = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.M)
    books = re.findall(r"^ +runbook: docs/alerts.md#(\w+)$", RULES.read_text(), re.M)
    pages = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.M)
    tried = re.findall(r"^  - name: (\w+) (?:fires|stays quiet)$", TESTS.read_text(), re.M)
    assert books == [alert.lower() for alert in alerts], "each alert names its runbook"
    assert pages == alerts, "each has a part of docs/alerts.md, in the same order"
    assert all(tried.count(alert) == 2 for alert in alerts), "each is tried both ways"


def composed(promtool):
    """The files lie beside each other there, as watched.yaml mounts them."""
    with tempfile.TemporaryDirectory() as there:
        for path in (RULES, ROOT / "deploy/compose/prometheus.yml"):
            (pathlib.Path(there) / path.name).write_text(path.read_text())
        tool(promtool, "check", "config", f"{there}/prometheus.yml")


class Prometheus:
    """One that scrapes a server every second, by the file that deploy/ has."""

    def __init__(self, program, server, folder):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        config = config.replace("127.0.0.1:9000", f"127.0.0.1:{server.port}").replace("15s", "1s")
        config = config.replace("gannet.rules.yml", str(RULES))
        (folder / "prometheus.yml").write_text(config)
        tool(program.parent / "promtool", "check", "config", folder / "prometheus.yml")
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def query(self, text):
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": text})
        try:
            return json.loads(get(url, timeout=20))["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise ConnectionError("it has only begun") from None
            raise AssertionError(f"{text}: {error.read().decode()}") from None

    def wait_for(self, text):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if self.query(text):
                    return
            except OSError:
                pass
            time.sleep(0.2)
        self.log.seek(0)
        raise AssertionError(f"nothing for {text} within {PATIENCE} s:\n{self.log.read()[-2000:]}")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()


def scraped(program, server, rules, shown):
    with tempfile.TemporaryDirectory() as folder:
        prometheus = Prometheus(program, server, pathlib.Path(folder))
        try:
            prometheus.wait_for('up{job="gannet"} == 1')
            prometheus.wait_for("rate(gannet_reactor_turns_total[1m]) > 0")
            for query in rules + shown:
                prometheus.query(query)
            empty = [query for query in shown if "rate(" not in query and not prometheus.query(query)]
            assert not [query for query in empty if not re.search("_compressed_|_kafka_", query)], empty
        finally:
            prometheus.stop()


def main(folder):
    folder = pathlib.Path(folder)
    assert series('# HELP a b\na{b="}\\"",c="d"} 1\na 2\n') == ['a{b="}\\"",c="d"}', "a"]
    assert unknown(["rate(gannet_a_total[5m]) / gannet_b"], {"gannet_b"}) == ["gannet_a_total"]
    rules, shown = expressions()
    good = []
    with engines() as named_engines, start_server(*ALL_ON, *named_engines) as server:
        until("the node is ready", lambda: get(f"{server.http}/health/ready"))
        work(server)
        text = get(f"{server.http}/metrics")
        names = series(text)

        def fits():
            assert len(names) == len(set(names)) and len(names) >= 10, "a series is there twice"
            subprocess.run([folder / "promtool", "check", "metrics"], input=text, text=True, timeout=30, check=True)

        def named():
            strangers = unknown(rules + shown, names_of(text) | of_kafka())
            assert not strangers, strangers

        def made():
            made = subprocess.run([ROOT / "deploy/grafana/make"], capture_output=True, text=True, check=True).stdout
            assert made == (ROOT / "deploy/grafana/gannet.json").read_text(), "deploy/grafana/make >deploy/grafana/gannet.json"

        for name, step in (
            ("the page is what promtool takes, each series once", fits),
            ("rules and dashboard name metrics that are there", named),
            ("the dashboard is what its program makes", made),
            ("alerts fire and stay quiet as told", lambda: tool(folder / "promtool", "test", "rules", TESTS)),
            ("each alert has its runbook and is tried", runbooks),
            ("the Prometheus of deploy/compose takes its file", lambda: composed(folder / "promtool")),
            ("Prometheus scrapes, and takes every query", lambda: scraped(folder / "prometheus", server, rules, shown)),
        ):
            try:
                step()
                good.append(True)
            except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
                good.append(False)
                print(error)
            print(f"{'ok' if good[-1] else 'FAILED'}: {name}", flush=True)
    print(f"metrics: {good.count(True)} passed, {good.count(False)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
