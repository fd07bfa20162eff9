"""A backend in Python, with its standard library only: signs tokens and publishes. README.md beside it says how to run it."""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL = os.environ.get("GANNET_URL", "http://127.0.0.1:8000")
PAGE = pathlib.Path(__file__).with_name("page.html").read_bytes()


def token(user, seconds=3600):
    """A connection token (JWT, HS256). In an application take PyJWT: jwt.encode(claims, secret)."""
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    claims = {"sub": user, "exp": int(time.time()) + seconds}
    parts = [encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signature = hmac.digest(os.environ["TOKEN_SECRET"].encode(), b".".join(parts), hashlib.sha256)
    return b".".join([*parts, encode(signature)]).decode()


def publish(channel, data):
    """Sends `data` to all who are subscribed to `channel`; what went wrong is raised."""
    request = urllib.request.Request(
        f"{URL}/api/publish",
        data=json.dumps({"channel": channel, "data": data}).encode(),
        headers={"X-API-Key": os.environ["API_KEY"], "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        answer = json.load(response)
    # An error of the API comes with status 200.
    if "error" in answer:
        raise OSError(f"publish: {answer['error']}")


class Backend(BaseHTTPRequestHandler):
    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/":
            return self.answer(200, "text/html; charset=utf-8", PAGE)
        if url.path != "/token":
            return self.answer(404, "text/plain", b"not found\n")
        # In an application: who is signed in.
        user = urllib.parse.parse_qs(url.query).get("user", ["anna"])[0]
        socket = URL.replace("http", "ws", 1) + "/connection/websocket"
        self.answer(200, "application/json", json.dumps({"token": token(user), "url": socket}).encode())

    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 4096))
        try:
            said = json.loads(body)
            publish("news", {"user": str(said["user"]), "text": str(said["text"])})
        except (ValueError, KeyError, TypeError):
            return self.answer(400, "text/plain", b"expected user and text\n")
        except OSError as error:
            return self.answer(502, "text/plain", f"{error}\n".encode())
        self.answer(204, "text/plain", b"")


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Backend).serve_forever()
