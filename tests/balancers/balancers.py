#!/usr/bin/env python3
"""Gannet behind each balancer of deploy/ that is here: a client comes by wss, is served, and is moved to the other node
without a refusal when its own is drained; a stream passes on each message. Ends with "balancers: N passed, M failed".

    balancers.py GANNET [BALANCER...]    GANNET: the program; BALANCER: nginx, haproxy, caddy, envoy, traefik,
                                         compose (the nginx of deploy/compose, which has no TLS)
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 30
KEY = "a-key-of-the-api-that-is-long-enough"


def free_port(address="127.0.0.1"):
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


# Of every node, as in production: each has an address of its own.
INTERNAL = free_port()


def until(what, look):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            found = look()
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


@contextlib.contextmanager
def running(command, log, **more):
    with open(log, "ab") as output:
        process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output, **more)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Node:
    def __init__(self, gannet, folder, name, address):
        self.address = address
        self.place = f"{address}:{free_port(address)}"
        self.command = [
            gannet, "--http_server.address", address, "--http_server.port", self.place.split(":")[1],
            "--http_server.internal_port", INTERNAL, "--client.insecure", "--uni_sse.enabled", "--reactors", "1",
            "--http_api.key", KEY, "--shutdown.delay", "6s", "--shutdown.spread", "100ms", "--node.name", name,
            "--channel.without_namespace.presence", "--prometheus.enabled",
        ]  # fmt: skip
        self.log = folder / f"{name}.log"

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}:{INTERNAL}{path}", timeout=5) as answer:
            return answer.read().decode()

    def api(self, method, **body):
        request = urllib.request.Request(
            f"http://{self.address}:{INTERNAL}/api/{method}", json.dumps(body).encode(), {"X-API-Key": KEY}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())["result"]

    def clients(self):
        return self.api("info")["nodes"][0].get("num_clients", 0)


def certificate(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext",
         "basicConstraints=critical,CA:FALSE", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "tls.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())


def placed(path, nodes, *changes, between=":", names=("10.0.0.11", "10.0.0.12")):
    """A configuration of deploy/ with the addresses of this test. Each change must find its place."""
    text = (ROOT / "deploy" / path).read_text()
    places = [(f"{name}{between}8000", node.place.replace(":", between)) for name, node in zip(names, nodes)]
    for old, new in (*places, *changes):
        assert old in text, f"{path} has no {old}"
        text = text.replace(old, new)
    return text


def own_folders(folder):
    """Where nginx keeps what it keeps, and its log."""
    (folder / "nginx.log").touch()
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"pid {folder}/nginx.pid; error_log {folder}/nginx.log;", paths


def started(folder):
    return ["nginx", "-c", folder / "nginx.conf", "-g", "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"]


def nginx(folder, nodes, port):
    site = placed("nginx/gannet.conf", nodes, ("listen 443", f"listen 127.0.0.1:{port}"), ("/etc/nginx/tls", str(folder)))
    outside, paths = own_folders(folder)
    # What the distribution's own nginx.conf is around it.
    around = f"{outside} events {{ worker_connections 500; }}"
    (folder / "nginx.conf").write_text(f"{around}\nhttp {{ access_log off; {paths}\n{site}}}\n")
    return started(folder)


def compose(folder, nodes, port):
    outside, paths = own_folders(folder)
    third = "        server three:8000 max_fails=1 fail_timeout=2s;\n"
    text = placed("compose/nginx.conf", nodes, (third, ""), ("listen 8080", f"listen 127.0.0.1:{port}"),
                  ("worker_rlimit_nofile 200000;", outside), ("worker_connections 100000", "worker_connections 500"),
                  ("access_log off;", f"access_log off; {paths}"), names=("one", "two"))  # fmt: skip
    (folder / "nginx.conf").write_text(text)
    return started(folder)


def haproxy(folder, nodes, port):
    text = placed("haproxy/haproxy.cfg", nodes, ("bind :443", f"bind 127.0.0.1:{port}"), ("maxconn 200000", "maxconn 500"),
                  ("/etc/haproxy/tls.pem", str(folder / "tls.pem")), ("check port 9000", f"check port {INTERNAL}"))  # fmt: skip
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-f", folder / "haproxy.cfg"]


def caddy(folder, nodes, port):
    site = placed("caddy/Caddyfile", nodes, ("gannet.example.com {", f"https://127.0.0.1:{port} {{\n\ttls {folder}/cert.pem {folder}/key.pem"),
                  ("health_port 9000", f"health_port {INTERNAL}"))  # fmt: skip
    # It would take ports of its own to redirect from http, to get certificates and to be told things.
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def envoy(folder, nodes, port):
    text = placed("envoy/envoy.yaml", nodes, ("address: 0.0.0.0, port_value: 443", f"address: 127.0.0.1, port_value: {port}"),
                  ("/etc/envoy/tls", str(folder)), ("port_value: 9000", f"port_value: {INTERNAL}"),
                  between=", port_value: ")  # fmt: skip
    (folder / "envoy.yaml").write_text(text)
    return ["envoy", "--config-path", folder / "envoy.yaml", "--disable-hot-restart", "--concurrency", "1"]


def traefik(folder, nodes, port):
    there = ("/etc/traefik", str(folder))
    static = placed("traefik/traefik.yaml", (), ('":443"', f'"127.0.0.1:{port}"'), there)
    # It would ask others for news of itself.
    (folder / "traefik.yaml").write_text(f"global: {{checkNewVersion: false, sendAnonymousUsage: false}}\n{static}")
    site = placed("traefik/gannet.yaml", nodes, ("port: 9000", f"port: {INTERNAL}"), ("/etc/traefik/tls", str(folder)))
    (folder / "gannet.yaml").write_text(site)
    return ["traefik", f"--configfile={folder}/traefik.yaml"]


BALANCERS = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy, "envoy": envoy, "traefik": traefik, "compose": compose}
# Without TLS.
PLAIN = ("compose",)


class Follower:
    """`gannet sub` through the balancer, line by line."""

    def __init__(self, gannet, url, folder):
        command = [gannet, "sub", "news", "--recover", "--json", "--url", url, "--ca", folder / "cert.pem"]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        self.lines = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def has(self, kind, count=1, **fields):
        def look():
            found = [line for line in self.lines if line["type"] == kind and fields.items() <= line.items()]
            return len(found) >= count

        until(f"{kind} {fields}, {count} times: {self.lines}", look)

    def count(self, kind):
        return sum(line["type"] == kind for line in self.lines)

    def stop(self):
        self.process.kill()
        self.process.wait()


def answer_of(url, folder):
    """To who asks for a WebSocket without the words for it, which nodes alone refuse so."""
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    try:
        with urllib.request.urlopen(f"{url}/connection/websocket", timeout=5, context=context) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def first_event(url, folder):
    """A stream passes its first message on while it stays open."""
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    with urllib.request.urlopen(f"{url}/connection/uni_sse?cf_connect=%7B%7D", timeout=10, context=context) as answer:
        line = answer.readline()
    assert line.startswith(b"data:") and b"client" in line, line


def moved(gannet, name, folder):
    certificate(folder)
    a, b = nodes = Node(gannet, folder, "a", "127.0.0.11"), Node(gannet, folder, "b", "127.0.0.12")
    port = free_port()
    url = f"{'http' if name in PLAIN else 'https'}://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        processes = {node: stack.enter_context(running(node.command, node.log)) for node in nodes}
        for node in nodes:
            until("a node that serves", lambda node=node: node.get("/health"))
        stack.enter_context(running(BALANCERS[name](folder, nodes, port), folder / "balancer.log"))
        until("a balancer that leads to a node", lambda: answer_of(url, folder) in (400, 426))
        followers = [Follower(gannet, url, folder) for _ in range(4)]
        for follower in followers:
            stack.callback(follower.stop)
            follower.has("subscribed")
        first_event(url, folder)
        until("clients on both nodes", lambda: a.clients() and b.clients())
        for node in nodes:
            node.api("publish", channel="news", data=1)
        for follower in followers:
            follower.has("publication", data=1)
        # One leaves: its clients are told 3001, come back at once or with a backoff, and are on the other.
        processes[a].send_signal(signal.SIGTERM)
        assert processes[a].wait(timeout=PATIENCE) == 0

        def heard():
            b.api("publish", channel="news", data=2)
            return all(any(line.get("data") == 2 for line in follower.lines) for follower in followers)

        until("all clients on the node that stays", heard)
        for follower in followers:
            told = [line["reason"] for line in follower.lines if line["type"] == "disconnected"]
            assert all("code 3001" in reason for reason in told), f"a client saw more of it than a 3001: {told}"
        assert any(follower.count("disconnected") for follower in followers), "nobody was on the node that left"


def main(gannet, *names):
    gannet = pathlib.Path(gannet).resolve()
    good = []
    for name in names or BALANCERS:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            try:
                moved(gannet, name, folder)
                good.append(True)
            except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
                good.append(False)
                print(error)
                for log in sorted(folder.glob("*.log")):
                    print(f"--- {log.name}\n{log.read_text()[-3000:]}")
        print(f"{'ok' if good[-1] else 'FAILED'}: {name} serves, and moves clients from a node that leaves", flush=True)
    print(f"balancers: {good.count(True)} passed, {good.count(False)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
