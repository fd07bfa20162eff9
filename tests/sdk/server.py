"""Starts the server under test on a free loopback port and stops it again, for Python."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("GANNET", str(ROOT / "target/release/gannet"))
LOGS = ROOT / "tests/.cache/logs/servers"
API_KEY = "test-api-key"
SECRET = "test-secret-of-at-least-thirty-two-bytes"

# A folder with ca.pem, cert.pem and key.pem: then all that is said is said over TLS. SSL_CERT_FILE names the first.
TLS = os.environ.get("TESTS_TLS", "")
TLS_OPTIONS = [
    "--http_server.tls.enabled",
    f"--http_server.tls.cert_pem={TLS}/cert.pem",
    f"--http_server.tls.key_pem={TLS}/key.pem",
]
# What stands behind http and ws in URLs.
S = "s" if TLS else ""

# Loopback never goes through a proxy.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url, timeout=5):
    with _http.open(url, timeout=timeout) as response:
        return response.read().decode()


class Server:
    def __init__(self, port):
        self.port = port
        self.http = f"http{S}://127.0.0.1:{port}"
        self.ws = f"ws{S}://127.0.0.1:{port}"
        self.url = f"{self.ws}/connection/websocket"
        self.process = None
        self.ending = False

    def terminate(self):
        """Asks the server once to end; `start_server` waits for it."""
        if not self.ending:
            self.ending = True
            self.process.send_signal(signal.SIGTERM)

    def api(self, method, **body):
        """One call of the server API that must succeed; its `result`."""
        request = urllib.request.Request(
            f"{self.http}/api/{method}",
            data=json.dumps(body).encode(),
            headers={"X-API-Key": API_KEY, "Content-Type": "application/json"},
        )
        with _http.open(request, timeout=5) as response:
            return json.load(response)["result"]


def namespaces(**named):
    """The option that makes these namespaces: their names, each with its options."""
    return "--channel.namespaces", json.dumps([{"name": name, **options} for name, options in named.items()])


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def start_server(*options):
    """A running server for a `with` block. It must end by itself, with status 0, on SIGTERM."""
    server = Server(_free_port())
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{server.port}.log"
    command = [
        BINARY, "--http_server.address", "127.0.0.1", "--http_server.port", str(server.port),
        "--reactors", "2", "--health.enabled", "--http_api.key", API_KEY,
        "--client.token.hmac_secret_key", SECRET,
        "--shutdown.delay", "0s", "--shutdown.spread", "100ms", *(TLS_OPTIONS if TLS else []), *options,
    ]  # fmt: skip
    with open(log, "ab") as out:
        process = server.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        _wait_until_healthy(server, process, log)
        yield server
        server.terminate()
        status = process.wait(timeout=10)
        assert status == 0, f"the server ended with status {status}, see {log}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_healthy(server, process, log):
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            get(f"{server.http}/health", timeout=1)
            return
        if process.poll() is not None:
            raise RuntimeError(f"the server ended at start with status {process.returncode}, see {log}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server is not healthy after 10 s, see {log}")
        time.sleep(0.01)
