"""Proves what a channel gives the official Python SDK beside publications, in both encodings.

History, recovery after lost connections, the latest value, state of the app's own, deltas, filters,
presence, who comes and goes, server-side subscriptions, tokens and refreshes.
"""

import asyncio
import time

import pytest
from centrifuge import DeltaType, Filter, ReplyError, StreamPosition

from python_client import (
    both_encodings,
    client,
    connect,
    new_subscription,
    pack,
    refusal,
    several,
    soon,
    subscribe,
    token,
    unpack,
)
from relay import Relay
from server import namespaces, start_server

OPEN = {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True}
KEPT = {**OPEN, "history_size": 20, "history_ttl": "60s"}
SEEN = {**OPEN, "presence": True, "allow_presence_for_client": True}
CHANNELS = (
    *namespaces(
        open=OPEN,
        log={**KEPT, "allow_history_for_subscriber": True, "allow_history_for_client": True},
        safe={**KEPT, "force_recovery": True},
        short={**KEPT, "force_recovery": True, "history_size": 2},
        latest={**KEPT, "force_recovery": True, "force_recovery_mode": "cache"},
        instant={**KEPT, "force_recovery": True, "force_recovery_mode": "cache", "auto_cache_recover": True},
        match={**KEPT, "force_recovery": True, "allowed_delta_types": ["fossil"], "delta_publish": True},
        news={**OPEN, "allow_tags_filter": True},
        room=SEEN,
        told={**SEEN, "join_leave": True},
        loud={**SEEN, "join_leave": True, "force_push_join_leave": True},
        shut={},
        some={"allow_user_limited_channels": True},
    ),
    "--client.expired_sub_close_delay", "1s",
)  # fmt: skip


def in_seconds(n):
    return int(time.time()) + n


def run(scenario, *options):
    """Runs `scenario` with a server; whatever a test connects it disconnects itself."""
    with start_server(*CHANNELS, *options) as server:
        asyncio.run(asyncio.wait_for(scenario(server), timeout=60))


async def api(server, method, **body):
    return await asyncio.to_thread(lambda: server.api(method, **body))


async def tell(server, channel, numbers, say=lambda n: n):
    for n in numbers:
        await api(server, "publish", channel=channel, data=say(n))


async def refused(call):
    with pytest.raises(ReplyError) as error:
        await call
    return error.value.code


def offsets(result):
    return [pub.offset for pub in result.publications]


@both_encodings
def test_history_by_limit_from_a_position_and_newest_first(protobuf):
    async def scenario(server):
        ann, life = await connect(server, protobuf, "ann")
        log, _ = await subscribe(ann, "log:a")
        await log.publish(pack(protobuf, 1))
        await api(server, "publish", channel="log:a", data=2, tags={"lang": "de"})
        await tell(server, "log:a", range(3, 11))
        result = await log.history(limit=-1)
        assert (offsets(result), result.offset) == (list(range(1, 11)), 10)
        assert [unpack(pub.data) for pub in result.publications] == list(range(1, 11))
        first, second = result.publications[:2]
        assert (first.info.user, first.info.client, second.info) == ("ann", life.began.client, None)
        assert dict(second.tags) == {"lang": "de"}

        def since(offset):
            return StreamPosition(offset=offset, epoch=result.epoch)

        assert offsets(await log.history()) == []
        assert offsets(await log.history(limit=3)) == [1, 2, 3]
        assert offsets(await log.history(limit=3, since=since(4))) == [5, 6, 7]
        assert offsets(await log.history(limit=3, reverse=True)) == [10, 9, 8]
        assert offsets(await log.history(limit=9, since=since(4), reverse=True)) == [3, 2, 1]
        assert await refused(log.history(limit=1, since=StreamPosition(1, "of another life"))) == 112
        assert await refused(ann.history("open:a", limit=1)) == 108
        assert await refused(ann.history("safe:a", limit=1)) == 103
        await ann.disconnect()

    run(scenario)


@both_encodings
def test_what_was_missed_comes_after_a_cut(protobuf):
    async def scenario(server):
        async with Relay(server) as relay:
            ann, _ = await connect(relay, protobuf, "ann")
            _, heard = await subscribe(ann, "safe:a")
            assert (heard.began.recoverable, heard.began.positioned) == (True, True)
            await tell(server, "safe:a", range(1, 4))
            assert await several(heard.publications, 3) == [1, 2, 3]
            for missed in (4, 8, 12):
                relay.hold()
                await tell(server, "safe:a", range(missed, missed + 3))
                relay.resume()
                back = await soon(heard.subscribed)
                assert (back.was_recovering, back.recovered) == (True, True)
                await tell(server, "safe:a", [missed + 3])
                assert await several(heard.publications, 4) == list(range(missed, missed + 4))
            assert [pub.offset for pub in heard.whole] == list(range(1, 16))
            await ann.disconnect()

    run(scenario)


@both_encodings
def test_what_the_stream_no_longer_has_is_told(protobuf):
    async def scenario(server):
        async with Relay(server) as relay:
            ann, _ = await connect(relay, protobuf, "ann")
            _, heard = await subscribe(ann, "short:a")
            await tell(server, "short:a", [1])
            await soon(heard.publications)
            relay.hold()
            await tell(server, "short:a", range(2, 8))
            relay.resume()
            back = await soon(heard.subscribed)
            assert (back.was_recovering, back.recovered, back.stream_position.offset) == (True, False, 7)
            await tell(server, "short:a", [8])
            assert await soon(heard.publications) == 8
            await ann.disconnect()

    run(scenario)


@both_encodings
def test_cache_mode_gives_the_latest_publication(protobuf):
    async def scenario(server):
        async with Relay(server) as relay:
            ann, _ = await connect(relay, protobuf, "ann")
            _, heard = await subscribe(ann, "latest:a")
            await tell(server, "latest:a", [1])
            await soon(heard.publications)
            relay.hold()
            await tell(server, "latest:a", range(2, 6))
            relay.resume()
            assert (await soon(heard.subscribed)).recovered
            assert await soon(heard.publications) == 5
            await tell(server, "instant:a", range(1, 4))
            _, at_once = await subscribe(ann, "instant:a")
            assert (at_once.began.recovered, await soon(at_once.publications)) == (True, 3)
            await ann.disconnect()

    run(scenario)


@both_encodings
def test_get_state_is_asked_again_when_its_position_is_too_old(protobuf):
    async def scenario(server):
        bob, _ = await connect(server, protobuf, "bob")
        await tell(server, "log:s", range(1, 30))
        states = []

        async def get_state(channel):
            now = await bob.history(channel)
            states.append(1 if not states else now.offset - 2)
            return StreamPosition(offset=states[-1], epoch=now.epoch)

        ann, _ = await connect(server, protobuf, "ann")
        _, heard = await subscribe(ann, "log:s", recoverable=True, get_state=get_state)
        assert heard.began.recovered
        await tell(server, "log:s", [30])
        assert (await several(heard.publications, 3), states) == ([28, 29, 30], [1, 27])
        await asyncio.gather(ann.disconnect(), bob.disconnect())

    run(scenario)


@both_encodings
def test_deltas_live_and_recovered(protobuf):
    def score(minute):
        return {"match": "Brøndby", "minute": minute, "commentary": "“…”\n" * 30}

    async def scenario(server):
        async with Relay(server) as relay:
            ann, _ = await connect(relay, protobuf, "ann")
            bob, _ = await connect(server, protobuf, "bob")
            _, she = await subscribe(ann, "match:a", delta=DeltaType.FOSSIL)
            _, he = await subscribe(bob, "match:a")
            await tell(server, "match:a", range(1, 6), score)
            assert await several(she.publications, 5) == [score(n) for n in range(1, 6)]
            relay.hold()
            await tell(server, "match:a", range(6, 9), score)
            relay.resume()
            assert (await soon(she.subscribed)).recovered
            await tell(server, "match:a", [9], score)
            assert await several(she.publications, 4) == [score(n) for n in range(6, 10)]
            assert [pub.delta for pub in she.whole] == [False, *[True] * 4, False, *[True] * 3]
            assert await several(he.publications, 9) == [score(n) for n in range(1, 10)]
            assert not any(pub.delta for pub in he.whole)
            await asyncio.gather(ann.disconnect(), bob.disconnect())

    run(scenario)


@both_encodings
def test_a_filter_lets_through_what_its_tags_match(protobuf):
    async def scenario(server):
        ann, _ = await connect(server, protobuf, "ann")
        bob, _ = await connect(server, protobuf, "bob")
        wanted = Filter.any(
            Filter.all(Filter.starts_with("lang", "de"), Filter.negate(Filter.lt("size", "10"))),
            Filter.is_in("lang", ["da", "end"]),
        )
        _, she = await subscribe(ann, "news:a", tags_filter=wanted)
        _, he = await subscribe(bob, "news:a")
        tags = [("de", "5"), ("de-AT", "10"), ("da", "1"), ("fr", "100"), ("end", "0")]
        for n, (lang, size) in enumerate(tags):
            await api(server, "publish", channel="news:a", data=n, tags={"lang": lang, "size": size})
        assert await several(he.publications, 5) == [0, 1, 2, 3, 4]
        assert await several(she.publications, 3) == [1, 2, 4]
        assert await refusal(ann, "open:f", tags_filter=Filter.exists("lang")) == 107
        await asyncio.gather(ann.disconnect(), bob.disconnect())

    run(scenario)


@both_encodings
def test_presence_and_its_counts(protobuf):
    async def scenario(server):
        ann, first = await connect(server, protobuf, "ann", token=token(sub="ann", info={"name": "Ann"}))
        again, second = await connect(server, protobuf, "ann")
        bob, _ = await connect(server, protobuf, "bob")
        seat = token(sub="ann", channel="room:a", info={"seat": 4})
        room, _ = await subscribe(ann, "room:a", token=seat)
        await subscribe(again, "room:a")
        clients = (await room.presence()).clients
        assert clients.keys() == {first.began.client, second.began.client}
        seen = clients[first.began.client]
        assert (seen.user, unpack(seen.conn_info), unpack(seen.chan_info)) == ("ann", {"name": "Ann"}, {"seat": 4})
        stats = await bob.presence_stats("room:a")
        assert (stats.num_clients, stats.num_users) == (2, 1)
        assert await refused(ann.presence("open:a")) == 108
        hers, _ = await subscribe(bob, "room:loop")
        for _ in range(30):
            await hers.unsubscribe()
            assert (await bob.presence_stats("room:loop")).num_clients == 0
            await hers.subscribe()
            await hers.ready()
            assert (await bob.presence_stats("room:loop")).num_clients == 1
        await asyncio.gather(ann.disconnect(), again.disconnect(), bob.disconnect())

    run(scenario)


@both_encodings
def test_who_comes_and_goes(protobuf):
    async def scenario(server):
        async with Relay(server) as relay:
            ann, _ = await connect(server, protobuf, "ann")
            bob, _ = await connect(relay, protobuf, "bob")
            _, she = await subscribe(ann, "told:a", join_leave=True)
            assert await soon(she.comings) == "+ann", "its own coming too"
            his, he = await subscribe(bob, "told:a")
            await his.unsubscribe()
            await his.subscribe()
            assert await several(she.comings, 3) == ["+bob", "-bob", "+bob"]
            relay.hold()
            assert await soon(she.comings) == "-bob"
            assert he.comings.empty(), "it did not ask"
            _, unasked = await subscribe(ann, "loud:a")
            assert await soon(unasked.comings) == "+ann"
            await asyncio.gather(ann.disconnect(), bob.disconnect())

    run(scenario)


@both_encodings
def test_server_side_subscriptions_hear_and_recover(protobuf):
    async def scenario(server):
        async with Relay(server) as relay:
            subs = {"open:a": {}, "safe:s": {"data": {"hello": 1}}, "loud:s": {}}
            claims = {"sub": "ann", "channels": ["ignored"], "subs": subs}
            ann, life = await connect(relay, protobuf, "ann", token=token(**claims))
            began = {ctx.channel: ctx for ctx in await several(life.subscribed, 4)}
            assert began.keys() == {"open:a", "safe:s", "loud:s", "#ann"}
            assert (unpack(began["safe:s"].data), began["safe:s"].recoverable) == ({"hello": 1}, True)
            assert await soon(life.comings) == "+ann"
            await tell(server, "#ann", ["x"])
            await tell(server, "safe:s", [1])
            assert sorted(await several(life.publications, 2)) == [("#ann", "x"), ("safe:s", 1)]
            relay.hold()
            await tell(server, "safe:s", [2, 3])
            relay.resume()
            back = {ctx.channel: ctx for ctx in await several(life.subscribed, 4)}
            assert (back["safe:s"].was_recovering, back["safe:s"].recovered) == (True, True)
            await tell(server, "safe:s", [4])
            assert await several(life.publications, 3) == [("safe:s", n) for n in (2, 3, 4)]
            await api(server, "unsubscribe", user="ann", channel="open:a")
            assert await soon(life.unsubscribed) == "open:a"
            await ann.disconnect()

    run(scenario, "--client.subscribe_to_user_personal_channel.enabled")


@both_encodings
def test_tokens_of_subscriptions(protobuf):
    async def scenario(server):
        ann, life = await connect(server, protobuf, "ann")
        asked, third = [], asyncio.Event()

        async def get_token(channel):
            asked.append(channel)
            if len(asked) == 3:
                third.set()
            # Refreshed once, then for good.
            exp = {"exp": in_seconds(2)} if len(asked) == 2 else {}
            return token(sub="ann", channel=channel, data={"hello": 1}, **exp)

        expired = token(sub="ann", channel="shut:a", exp=in_seconds(-60))
        _, first = await subscribe(ann, "shut:a", token=expired, get_token=get_token)
        assert (unpack(first.began.data), (await soon(first.errors)).error.code) == ({"hello": 1}, 109)
        _, second = await subscribe(ann, "shut:b", get_token=get_token)
        await asyncio.wait_for(third.wait(), timeout=10)
        await tell(server, "shut:b", ["end"])
        assert (await soon(second.publications), asked) == ("end", ["shut:a", "shut:b", "shut:b"])
        assert second.subscribing.qsize() == 1, "it was never lost"
        assert await refusal(ann, "shut:c") == 103
        assert await refusal(ann, "$open:c") == 103
        assert await refusal(ann, "open:c", token=token(secret="another key", sub="ann", channel="open:c")) == 103
        assert await refusal(ann, "some:x#bob,eve") == 103
        await subscribe(ann, "some:x#bob,ann")
        wrong, _ = new_subscription(ann, "open:d", token=token(sub="ann", channel="open:e"))
        await wrong.subscribe()
        assert (await soon(life.disconnected)).code == 3500

    run(scenario)


@both_encodings
def test_an_expiring_connection_is_refreshed(protobuf):
    async def scenario(server):
        asked = asyncio.Queue()

        async def get_token():
            asked.put_nowait(None)
            return token(sub="ann", exp=in_seconds(2 if asked.qsize() == 1 else 600))

        ann, life = client(server, protobuf, get_token=get_token)
        await ann.connect()
        await soon(life.connected)
        await several(asked, 2)
        _, heard = await subscribe(ann, "open:r")
        await tell(server, "open:r", ["end"])
        assert await soon(heard.publications) == "end"
        assert (life.connecting.qsize(), life.disconnected.empty()) == (1, True)
        await ann.disconnect()

    run(scenario)


@both_encodings
def test_rpc_is_not_available_without_a_backend_and_limits_hold(protobuf):
    async def scenario(server):
        ann, _ = await connect(server, protobuf, "ann")
        assert await refused(ann.rpc("add", pack(protobuf, 1))) == 108
        second, late = client(server, protobuf, token=token(sub="ann"))
        await second.connect()
        assert (await soon(late.disconnected)).code == 3504
        bob, life = await connect(server, protobuf, "bob")
        # The end with 3000 is not told: the client finds its transport closed.
        for code, told in ((3000, (1, "transport closed")), (3001, (3001, "as said")), (4000, (4000, "as said"))):
            await api(server, "disconnect", user="bob", disconnect={"code": code, "reason": "as said"})
            # The first tells of the call to connect.
            gone = await soon(life.connecting)
            gone = await soon(life.connecting) if gone.code == 0 else gone
            assert (gone.code, gone.reason) == told
            await soon(life.connected)
        await api(server, "disconnect", user="bob", disconnect={"code": 4900, "reason": "stay out"})
        assert (await soon(life.disconnected)).code == 4900
        await ann.disconnect()

    run(scenario, "--client.user_connection_limit", "1")
