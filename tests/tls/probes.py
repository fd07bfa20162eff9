"""Asks the server in TLS what a scanner and an attacker would ask, by tlslite-ng: versions, suites, records, messages.

Each probe says what the server must answer: an alert by its number, an end, or that it goes on. The client's library
shares nothing with the server's. Prints a line for each probe, and at last how many passed."""

import argparse
import contextlib
import http.client
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ContentType
from tlslite.errors import TLSAbruptCloseError, TLSClosedConnectionError, TLSRemoteAlert
from tlslite.messages import Message

PATIENCE = 20
REQUEST = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
UNEXPECTED, BAD_MAC, OVERFLOW, HANDSHAKE, ILLEGAL, DECODE, VERSION, NO_PROTOCOL = 10, 20, 22, 40, 47, 50, 70, 120
KEY_UPDATE, REQUESTED = bytes([24, 0, 0, 1, 0]), bytes([24, 0, 0, 1, 1])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(binary, files, *options):
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [binary, "--http_server.address=127.0.0.1", f"--http_server.port={port}", "--reactors=2",
             "--http_server.tls.enabled", f"--http_server.tls.cert_pem={files}/cert.pem",
             f"--http_server.tls.key_pem={files}/key.pem", "--shutdown.delay=0s", *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"the server does not start: {log.read().decode()}")
                time.sleep(0.02)
            yield port
            if process.poll() is not None:
                raise SystemExit(f"the server ended by itself: {process.returncode}")
        finally:
            process.kill()
            process.wait()


class Probe:
    """One connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.tls = TLSConnection(self.socket)

    def shake(self, settings=None, alpn=(b"http/1.1",)):
        self.tls.handshakeClientCert(settings=settings, serverName="localhost", alpn=[bytearray(p) for p in alpn])
        # What is behind an end is to be seen.
        self.tls.ignoreAbruptClose = False
        return self

    def record(self, kind, content):
        for _ in self.tls._recordLayer.sendRecord(Message(kind, bytearray(content))):
            pass
        return self

    def updated(self):
        """From here on this side seals by its next key."""
        session, layer = self.tls.session, self.tls._recordLayer
        session.cl_app_secret, session.sr_app_secret = layer.calcTLS1_3KeyUpdate_reciever(
            session.cipherSuite, session.cl_app_secret, session.sr_app_secret)
        return self

    def is_served(self):
        self.record(ContentType.application_data, REQUEST)
        said = b""
        while b"\r\n\r\n" not in said:
            part = self.tls.read(min=1, max=4096)
            if not part:
                raise AssertionError("the stream ended")
            said += bytes(part)
        assert said.startswith(b"HTTP/1.1 404"), said[:40]
        return True

    def end(self):
        """How the server ends it: an alert's number, "closed" by close_notify, or "cut" without one."""
        try:
            while self.tls.read(min=1, max=65536):
                pass
            return "closed"
        except TLSRemoteAlert as alert:
            return alert.description
        except (TLSAbruptCloseError, TLSClosedConnectionError, ConnectionError):
            return "cut"


def settings(version=None, **options):
    made = HandshakeSettings()
    if version:
        made.minVersion = made.maxVersion = version
    for name, value in options.items():
        setattr(made, name, value)
    return made


def refused(port, made, alpn=(b"http/1.1",)):
    """The alert that a handshake ends with."""
    try:
        Probe(port).shake(made, alpn)
    except TLSRemoteAlert as alert:
        return alert.description
    except (TLSAbruptCloseError, ConnectionError):
        return "cut"
    return "accepted"


def raw(port, content):
    """What comes back for bytes that are sent as they are: an alert's number, or "cut"."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stream:
        stream.sendall(content)
        said = b""
        with contextlib.suppress(ConnectionError):
            while part := stream.recv(4096):
                said += part
        return said[6] if len(said) >= 7 and said[0] == 21 else "cut"


def hello():
    """A hello that OpenSSL makes, without its record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()[5:]


def in_record(content, kind=22, version=b"\x03\x01"):
    return bytes([kind]) + version + struct.pack(">H", len(content)) + content


def with_length(message):
    return message[:1] + len(message[4:]).to_bytes(3, "big") + message[4:]


def extended(message, extension):
    """The same hello with one extension more at its end."""
    body = message[4:]
    at = 34 + 1 + body[34]
    at += 2 + struct.unpack(">H", body[at:at + 2])[0]
    at += 1 + body[at]
    size = struct.unpack(">H", body[at:at + 2])[0]
    assert at + 2 + size == len(body)
    body = body[:at] + struct.pack(">H", size + len(extension)) + body[at + 2:] + extension
    return with_length(message[:4] + body)


V12, V13 = (3, 3), (3, 4)
AEAD = ["aes256gcm", "aes128gcm", "chacha20-poly1305"]


def versions_and_suites(port):
    for version in ((3, 0), (3, 1), (3, 2)):
        # None of their suites is there either.
        yield f"version {version}", refused(port, settings(version)) in (VERSION, HANDSHAKE), True
    for version in (V12, V13):
        yield f"version {version}", refused(port, settings(version)), "accepted"
    for cipher in AEAD:
        for version in (V12, V13):
            yield f"{cipher} in {version}", refused(port, settings(version, cipherNames=[cipher])), "accepted"
    for cipher in ("aes128", "aes256", "3des", "rc4"):
        yield f"{cipher} without AEAD", refused(port, settings(V12, cipherNames=[cipher])), HANDSHAKE
    for exchange in ("rsa", "dhe_rsa"):
        yield f"key exchange {exchange}", refused(port, settings(V12, keyExchangeNames=[exchange])), HANDSHAKE
    yield "a protocol that is none here", refused(port, settings(V13), (b"h2",)), NO_PROTOCOL
    yield "the protocol of ACME, without ACME", refused(port, settings(V13), (b"acme-tls/1",)), NO_PROTOCOL
    yield "the same with TLS 1.2", refused(port, settings(V12), (b"h2",)), NO_PROTOCOL


def hellos(port):
    message = hello()
    yield "no hello at all", raw(port, b"GET / HTTP/1.1\r\n\r\n"), DECODE
    yield "a hello of zeros", raw(port, in_record(b"\x01\0\0\x20" + bytes(32))), DECODE
    yield "a hello cut short", raw(port, in_record(with_length(message[:-9]))), DECODE
    yield "bytes behind a hello", raw(port, in_record(with_length(message + b"\0"))), DECODE
    yield "an extension twice", raw(port, in_record(extended(message, bytes([0, 23, 0, 0])))) in (DECODE, ILLEGAL), True
    yield "an empty record", raw(port, in_record(b"") + in_record(message)), DECODE
    yield "a record of data first", raw(port, in_record(REQUEST, 23)) in (UNEXPECTED, DECODE, "cut"), True
    yield "a Finished first", raw(port, in_record(bytes([20, 0, 0, 12]) + bytes(12))), UNEXPECTED
    yield "a ServerHello", raw(port, in_record(bytes([2]) + message[1:])) in (UNEXPECTED, DECODE), True


def sealed_records(port):
    def probe():
        return Probe(port).shake(settings(V13))

    yield "a request", probe().is_served(), True
    yield "an update of the key in one record", probe().record(22, KEY_UPDATE).updated().is_served(), True
    yield "what is no message", probe().record(22, b"\x63\0\0\0").end(), UNEXPECTED
    yield "a hello once more", probe().record(22, hello()).end(), UNEXPECTED
    yield "a Finished once more", probe().record(22, bytes([20, 0, 0, 32]) + bytes(32)).end(), UNEXPECTED
    yield "a certificate that nobody asked for", probe().record(22, bytes([11, 0, 0, 4, 0, 0, 0, 0])).end(), UNEXPECTED
    yield "an update that is wanted or not or what", probe().record(22, bytes([24, 0, 0, 1, 2])).end(), ILLEGAL
    yield "an update of two bytes", probe().record(22, bytes([24, 0, 0, 2, 0])).record(22, b"\0").end(), DECODE
    yield "an update with something behind it", probe().record(22, KEY_UPDATE + b"\x18").end(), UNEXPECTED
    yield "an update cut by data", probe().record(22, KEY_UPDATE[:2]).record(23, b"x").end(), UNEXPECTED
    yield "an update and the old key", probe().record(22, KEY_UPDATE).record(23, b"x").end(), BAD_MAC
    yield "an empty message", probe().record(22, b"").end(), UNEXPECTED
    yield "half an alert", probe().record(21, b"\x01").end(), DECODE
    yield "a heartbeat", probe().record(24, b"\x01\0\x01x").end(), UNEXPECTED
    yield "a sealed change_cipher_spec", probe().record(20, b"\x01").end(), UNEXPECTED
    flood = probe()
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            flood.record(23, b"")
    yield "records that say nothing", flood.end() in (UNEXPECTED, "cut"), True
    for what, content, expected in (
        ("a record that nobody sealed", in_record(bytes(64), 23, b"\x03\x03"), BAD_MAC),
        ("a record of 2^14 + 257 bytes", in_record(bytes((1 << 14) + 257), 23, b"\x03\x03"), OVERFLOW),
        ("a record too short for its seal", in_record(b"x", 23, b"\x03\x03"), BAD_MAC),
        ("change_cipher_spec in clear", in_record(b"\x01", 20, b"\x03\x03"), UNEXPECTED),
        ("an alert in clear", in_record(b"\x02\x28", 21, b"\x03\x03"), UNEXPECTED),
    ):
        connection = probe()
        connection.socket.sendall(content)
        yield what, connection.end(), expected
    yield "close_notify", probe().record(21, b"\x01\0").end(), "closed"
    yield "a fatal alert", probe().record(21, b"\x02\x28").end(), "cut"


def old_records(port):
    def probe():
        return Probe(port).shake(settings(V12))

    yield "TLS 1.2: a request", probe().is_served(), True
    yield "TLS 1.2: renegotiation", probe().record(22, hello()).end() in (UNEXPECTED, 100, "cut"), True
    connection = probe()
    connection.socket.sendall(in_record(bytes(64), 23, b"\x03\x03"))
    yield "TLS 1.2: a record that nobody sealed", connection.end(), BAD_MAC
    yield "TLS 1.2: a heartbeat", probe().record(24, b"\x01\0\x01x").end() in (UNEXPECTED, DECODE), True
    yield "TLS 1.2: close_notify", probe().record(21, b"\x01\0").end(), "closed"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("files", type=pathlib.Path)
    asked = parser.parse_args()
    passed = failed = 0
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    with server(asked.binary, asked.files) as port:
        for group in (versions_and_suites, hellos, sealed_records, old_records):
            for what, got, expected in group(port):
                good = got == expected
                passed, failed = passed + good, failed + (not good)
                print(f"{'ok    ' if good else 'FAILED'} {what}: {got}" + ("" if good else f", not {expected}"))
        # After all that others are served as ever.
        trusted = ssl.create_default_context(cafile=str(asked.files / "ca.pem"))
        last = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=trusted)
        last.request("GET", "/nowhere")
        good = last.getresponse().status == 404
        passed, failed = passed + good, failed + (not good)
    print(f"tls: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
