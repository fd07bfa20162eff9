"""Clients as an application would write them, with the official Python SDK: what they hear, queued."""

import asyncio
import base64
import hashlib
import hmac
import json

import pytest
from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

from server import SECRET

both_encodings = pytest.mark.parametrize("protobuf", [False, True], ids=["json", "protobuf"])


def token(secret=SECRET, **claims):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + part(signature)).decode()


class Life(ClientEventHandler):
    """Queues how the connection fares."""

    def __init__(self):
        self.connected = asyncio.Queue()
        self.connecting = asyncio.Queue()
        self.disconnected = asyncio.Queue()
        self.errors = asyncio.Queue()
        # Of server-side subscriptions.
        self.subscribed = asyncio.Queue()
        self.unsubscribed = asyncio.Queue()
        self.publications = asyncio.Queue()
        self.comings = asyncio.Queue()

    async def on_connected(self, ctx):
        self.connected.put_nowait(ctx)

    async def on_connecting(self, ctx):
        self.connecting.put_nowait(ctx)

    async def on_disconnected(self, ctx):
        self.disconnected.put_nowait(ctx)

    async def on_error(self, ctx):
        self.errors.put_nowait(ctx)

    async def on_subscribed(self, ctx):
        self.subscribed.put_nowait(ctx)

    async def on_unsubscribed(self, ctx):
        self.unsubscribed.put_nowait(ctx.channel)

    async def on_publication(self, ctx):
        self.publications.put_nowait((ctx.channel, unpack(ctx.pub.data)))

    async def on_join(self, ctx):
        self.comings.put_nowait(f"+{ctx.info.user}")

    async def on_leave(self, ctx):
        self.comings.put_nowait(f"-{ctx.info.user}")


class Heard(SubscriptionEventHandler):
    """Queues what a subscription hears, decoded."""

    def __init__(self):
        self.subscribed = asyncio.Queue()
        self.unsubscribed = asyncio.Queue()
        self.publications = asyncio.Queue()
        self.whole = []
        self.subscribing = asyncio.Queue()
        self.comings = asyncio.Queue()
        self.errors = asyncio.Queue()

    async def on_subscribing(self, ctx):
        self.subscribing.put_nowait(ctx)

    async def on_subscribed(self, ctx):
        self.subscribed.put_nowait(ctx)

    async def on_unsubscribed(self, ctx):
        self.unsubscribed.put_nowait(ctx)

    async def on_publication(self, ctx):
        self.whole.append(ctx.pub)
        self.publications.put_nowait(unpack(ctx.pub.data))

    async def on_join(self, ctx):
        self.comings.put_nowait(f"+{ctx.info.user}")

    async def on_leave(self, ctx):
        self.comings.put_nowait(f"-{ctx.info.user}")

    async def on_error(self, ctx):
        self.errors.put_nowait(ctx)


def soon(queue):
    return asyncio.wait_for(queue.get(), timeout=10)


async def several(queue, count):
    return [await soon(queue) for _ in range(count)]


def pack(protobuf, value):
    return json.dumps(value).encode() if protobuf else value


def unpack(data):
    return json.loads(data) if isinstance(data, bytes) else data


def client(server, protobuf, **options):
    life = Life()
    options = {"min_reconnect_delay": 0.01, "max_reconnect_delay": 0.1, **options}
    return Client(server.url, events=life, use_protobuf=protobuf, proxy=None, **options), life


async def connect(server, protobuf, user, **options):
    """A connected client; how it connected is in its `began`."""
    opened, life = client(server, protobuf, **{"token": token(sub=user), **options})
    await opened.connect()
    life.began = await soon(life.connected)
    return opened, life


def new_subscription(opened, channel, **options):
    heard = Heard()
    options = {"min_resubscribe_delay": 0.01, "max_resubscribe_delay": 0.1, **options}
    return opened.new_subscription(channel, events=heard, **options), heard


async def subscribe(opened, channel, **options):
    """A live subscription; how it began is in its `began`."""
    subscription, heard = new_subscription(opened, channel, **options)
    await subscription.subscribe()
    heard.began = await soon(heard.subscribed)
    return subscription, heard


async def refusal(opened, channel, **options):
    """The code with which a subscription is refused, for good."""
    subscription, heard = new_subscription(opened, channel, **options)
    await subscription.subscribe()
    return (await soon(heard.unsubscribed)).code
