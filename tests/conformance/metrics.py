#!/usr/bin/env python3
"""Proves that /metrics of a server that has worked is what Prometheus wants: `promtool check
metrics` finds nothing, and no series is there twice (which promtool does not look for).

    metrics.py [PROMTOOL]
"""

import base64
import os
import pathlib
import re
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "sdk"))
from server import get, start_server  # noqa: E402


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
        assert b"client" in client.recv(4096)
    server.api("publish", channel="news", data={})


def series(text):
    return [re.match(r'[^{\s]+(\{(?:[^"}]|"(?:\\.|[^"\\])*")*\})?', line).group(0)
            for line in text.splitlines() if line and not line.startswith("#")]  # fmt: skip


def main(promtool="promtool"):
    assert series('# HELP a b\na{b="}\\"",c="d"} 1\na 2\n') == ['a{b="}\\"",c="d"}', "a"]
    with start_server("--prometheus.enabled", "--client.insecure") as server:
        work(server)
        text = get(f"{server.http}/metrics")
    names = series(text)
    twice = sorted({name for name in names if names.count(name) > 1})
    for name in twice:
        print(f"twice: {name}")
    check = subprocess.run([promtool, "check", "metrics"], input=text, text=True, timeout=30)
    good = check.returncode == 0 and not twice and len(names) >= 10
    print(f"metrics: {len(names)} series, promtool ended with {check.returncode}, {len(twice)} series twice")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
