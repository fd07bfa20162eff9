"""Proves that the official Python SDK connects, hears and is heard, in both encodings.

What it publishes is checked by a bare WebSocket that speaks the JSON protocol by hand, and what it
hears is published by the server API: no SDK is judged by itself.
"""

import asyncio
import json
import time

import pytest
import websockets
from centrifuge import CentrifugeError, ReplyError

from python_client import both_encodings, client, connect, pack, soon, subscribe, token
from server import start_server

OPEN = (
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_publish_for_subscriber",
)


class Witness:
    """A bare WebSocket client of the JSON protocol, subscribed to one channel."""

    @classmethod
    async def join(cls, server, channel):
        witness = cls()
        witness.socket = await websockets.connect(server.url, proxy=None)
        await witness.send({"id": 1, "connect": {"token": token(sub="witness")}})
        await witness.send({"id": 2, "subscribe": {"channel": channel}})
        witness.lines = []
        assert "connect" in await witness.line()
        assert await witness.line() == {"id": 2, "subscribe": {}}
        return witness

    async def send(self, command):
        await self.socket.send(json.dumps(command))

    async def line(self):
        while not self.lines:
            self.lines = (await asyncio.wait_for(self.socket.recv(), timeout=10)).split("\n")
        return json.loads(self.lines.pop(0))


@both_encodings
def test_two_clients_hear_each_other_and_a_witness_hears_both(protobuf):
    async def run(server):
        witness = await Witness.join(server, "talk")
        (ann, _), (bob, _) = await connect(server, protobuf, "ann"), await connect(server, protobuf, "bob")
        (hers, she), (his, he) = await subscribe(ann, "talk"), await subscribe(bob, "talk")

        line = {"text": 'grüße "Bob"\n☃', "list": [1.5, None, True, {}]}
        await hers.publish(pack(protobuf, line))
        assert await soon(he.publications) == line
        assert await soon(she.publications) == line
        pub = (await witness.line())["push"]["pub"]
        assert pub["data"] == line
        assert pub["info"]["user"] == "ann"

        await his.publish(pack(protobuf, "answer"))
        assert await soon(she.publications) == "answer"
        assert (await witness.line())["push"]["pub"]["data"] == "answer"

        await witness.send({"id": 3, "publish": {"channel": "talk", "data": ["by", "hand"]}})
        assert await soon(she.publications) == ["by", "hand"]
        assert [await soon(he.publications) for _ in range(2)] == ["answer", ["by", "hand"]]
        await asyncio.gather(ann.disconnect(), bob.disconnect(), witness.socket.close())

    with start_server(*OPEN) as server:
        asyncio.run(run(server))


def test_json_and_protobuf_clients_hear_each_other():
    async def run(server):
        (ann, _), (bob, _) = await connect(server, False, "ann"), await connect(server, True, "bob")
        (hers, she), (his, he) = await subscribe(ann, "talk"), await subscribe(bob, "talk")
        for n in range(100):
            await hers.publish({"from": "ann", "n": n})
            await his.publish(pack(True, {"from": "bob", "n": n}))
        wanted = [{"from": who, "n": n} for n in range(100) for who in ("ann", "bob")]
        assert [await soon(she.publications) for _ in wanted] == wanted
        assert [await soon(he.publications) for _ in wanted] == wanted
        await asyncio.gather(ann.disconnect(), bob.disconnect())

    with start_server(*OPEN) as server:
        asyncio.run(run(server))


@both_encodings
def test_the_backend_is_heard_and_can_unsubscribe_and_disconnect(protobuf):
    async def run(server):
        ann, life = await connect(server, protobuf, "ann")
        _, heard = await subscribe(ann, "news")
        for n in range(50):
            await asyncio.to_thread(server.api, "publish", channel="news", data={"n": n})
        assert [await soon(heard.publications) for _ in range(50)] == [{"n": n} for n in range(50)]
        await asyncio.to_thread(server.api, "unsubscribe", user="ann", channel="news")
        assert (await soon(heard.unsubscribed)).code == 2000
        await asyncio.to_thread(server.api, "disconnect", user="ann")
        assert (await soon(life.disconnected)).code == 3503

    with start_server(*OPEN) as server:
        asyncio.run(run(server))


@both_encodings
def test_a_good_token_connects(protobuf):
    async def run(server):
        ann, life = client(server, protobuf, token=token(sub="ann", exp=int(time.time()) + 600))
        await ann.connect()
        connected = await soon(life.connected)
        assert connected.client and connected.version
        await ann.disconnect()

    with start_server() as server:
        asyncio.run(run(server))


@both_encodings
def test_a_bad_token_ends_with_3500_and_none_with_3501(protobuf):
    async def run(server):
        for value, code in [(token(secret="another key", sub="ann"), 3500), ("", 3501)]:
            opened, life = client(server, protobuf, token=value)
            await opened.connect()
            assert (await soon(life.disconnected)).code == code
            assert life.connected.empty()

    with start_server() as server:
        asyncio.run(run(server))


@both_encodings
def test_an_expired_token_is_replaced(protobuf):
    async def run(server):
        asked = asyncio.Queue()

        async def get_token():
            asked.put_nowait(None)
            return token(sub="ann", exp=int(time.time()) + 600)

        expired = token(sub="ann", exp=int(time.time()) - 60)
        ann, life = client(server, protobuf, token=expired, get_token=get_token)
        await ann.connect()
        assert (await soon(life.errors)).error.code == 109
        await soon(life.connected)
        assert asked.qsize() == 1
        await ann.disconnect()

    with start_server() as server:
        asyncio.run(run(server))


@both_encodings
def test_errors_are_replies_and_the_client_lives_on(protobuf):
    async def run(server):
        ann, life = await connect(server, protobuf, "ann")
        with pytest.raises(ReplyError) as denied:
            await ann.publish("talk", pack(protobuf, 1))
        assert denied.value.code == 103
        with pytest.raises(CentrifugeError):
            await ann.publish("nowhere:x", pack(protobuf, 1))
        _, heard = await subscribe(ann, "talk")
        await asyncio.to_thread(server.api, "publish", channel="talk", data=1)
        assert await soon(heard.publications) == 1
        assert life.disconnected.empty()
        await ann.disconnect()

    with start_server(*OPEN) as server:
        asyncio.run(run(server))


@both_encodings
def test_a_shutdown_is_heard_as_3001(protobuf):
    async def run(server):
        ann, life = await connect(server, protobuf, "ann")
        assert (await soon(life.connecting)).code == 0, "connect was called"
        server.terminate()
        assert (await soon(life.connecting)).code == 3001
        await ann.disconnect()

    with start_server(*OPEN) as server:
        asyncio.run(run(server))
