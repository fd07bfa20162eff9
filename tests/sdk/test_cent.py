"""Proves that `cent`, Centrifugo's Python library for backends, finds its whole server API here: every
method, batches, errors. What it publishes is heard by a bare WebSocket that speaks JSON by hand."""

import asyncio
import contextlib
import json
import time

import cent
import pytest
import requests

from server import API_KEY, start_server
from test_python_sdk import Witness

OPTIONS = (
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.namespaces",
    json.dumps([
        {
            "name": "keep", "history_size": 10, "history_ttl": "60s", "presence": True,
            "allow_subscribe_for_client": True,
        },
        {"name": "binary", "publication_data_format": "binary"},
    ]),
)  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with start_server(*OPTIONS) as running:
        yield running


@pytest.fixture
def api(server):
    session = requests.Session()
    session.trust_env = False
    yield cent.Client(f"{server.http}/api", API_KEY, timeout=10, session=session)
    session.close()


@contextlib.contextmanager
def refused(code):
    with pytest.raises(cent.CentApiResponseError) as error:
        yield
    assert error.value.code == code


def with_witness(server, channel, body):
    """What `body(witness)` returns; its calls of the API block, and so run in a thread."""

    async def run():
        witness = await Witness.join(server, channel)
        try:
            return await body(witness)
        finally:
            await witness.socket.close()

    return asyncio.run(run())


def test_publish_and_history(server, api):
    async def body(witness):
        result = await asyncio.to_thread(
            api.publish, cent.PublishRequest(channel="keep:talk", data={"n": 1}, tags={"k": "v"})
        )
        heard = {"data": {"n": 1}, "offset": 1, "tags": {"k": "v"}, "epoch": result.epoch}
        assert (await witness.line())["push"]["pub"] == heard
        return result

    first = with_witness(server, "keep:talk", body)
    assert first.offset == 1 and first.epoch
    api.publish(cent.PublishRequest(channel="keep:talk", data=None, b64data="InR3byI="))
    skipped = api.publish(cent.PublishRequest(channel="keep:talk", data=3, skip_history=True))
    assert (skipped.offset, skipped.epoch) == (0, "")

    everything = api.history(cent.HistoryRequest(channel="keep:talk", limit=-1))
    assert [one.data for one in everything.publications] == [{"n": 1}, "two"]
    assert everything.publications[0].tags == {"k": "v"}
    assert (everything.offset, everything.epoch) == (2, first.epoch)
    assert api.history(cent.HistoryRequest(channel="keep:talk")).publications == []
    since = cent.StreamPosition(offset=1, epoch=first.epoch)
    later = api.history(cent.HistoryRequest(channel="keep:talk", limit=5, since=since))
    assert [one.offset for one in later.publications] == [2]
    newest = api.history(cent.HistoryRequest(channel="keep:talk", limit=1, reverse=True))
    assert [one.data for one in newest.publications] == ["two"]
    with refused(112):
        api.history(cent.HistoryRequest(channel="keep:talk", limit=1, since=cent.StreamPosition(offset=1, epoch="x")))
    api.history_remove(cent.HistoryRemoveRequest(channel="keep:talk"))
    left = api.history(cent.HistoryRequest(channel="keep:talk", limit=-1))
    assert (left.publications, left.offset) == ([], 2)


def test_an_idempotency_key_publishes_once(api):
    request = cent.PublishRequest(channel="keep:once", data=1, idempotency_key="key")
    assert api.publish(request) == api.publish(request)
    assert api.history(cent.HistoryRequest(channel="keep:once")).offset == 1


def test_broadcast(api):
    answer = api.broadcast(cent.BroadcastRequest(channels=["keep:b", "plain", "nowhere:x", "keep:b"], data=[1]))
    assert [one.result and one.result.offset for one in answer.responses] == [1, 0, None, 2]
    assert answer.responses[2].error.code == 102
    with refused(107):
        api.broadcast(cent.BroadcastRequest(channels=[], data=1))


def test_a_client_is_subscribed_seen_refreshed_unsubscribed_and_disconnected(server, api):
    async def body(witness):
        async def call(method, request):
            return await asyncio.to_thread(method, request)

        user = "witness"
        subscribe = cent.SubscribeRequest(
            user=user, channel="keep:room", info={"role": 1}, data={"welcome": True},
            override=cent.ChannelOptionsOverride(force_recovery=cent.BoolValue(value=True)),
        )  # fmt: skip
        await call(api.subscribe, subscribe)
        push = (await witness.line())["push"]
        assert (push["channel"], push["subscribe"]["data"]) == ("keep:room", {"welcome": True})
        assert push["subscribe"]["recoverable"]

        presence = (await call(api.presence, cent.PresenceRequest(channel="keep:room"))).presence
        [(client, info)] = presence.items()
        assert (info.client, info.user, info.chan_info) == (client, user, {"role": 1})
        stats = await call(api.presence_stats, cent.PresenceStatsRequest(channel="keep:room"))
        assert (stats.num_clients, stats.num_users) == (1, 1)
        channels = (await call(api.channels, cent.ChannelsRequest(pattern="keep:r*"))).channels
        assert {name: one.num_clients for name, one in channels.items()} == {"keep:room": 1}
        nodes = (await call(api.info, cent.InfoRequest())).nodes
        assert len(nodes) == 1 and nodes[0].uid and nodes[0].name and nodes[0].version
        assert (nodes[0].num_clients, nodes[0].num_users, nodes[0].num_subs, nodes[0].num_channels) == (1, 1, 2, 2)
        assert nodes[0].process.rss > 0

        await call(api.refresh, cent.RefreshRequest(user=user, client=client, expire_at=int(time.time()) + 600))
        refresh = (await witness.line())["push"]["refresh"]
        assert refresh["expires"] and 590 <= refresh["ttl"] <= 600

        await call(api.unsubscribe, cent.UnsubscribeRequest(user=user, channel="keep:room"))
        assert (await witness.line())["push"]["unsubscribe"]["code"] == 2000
        await call(api.disconnect, cent.DisconnectRequest(user=user, whitelist=[client]))
        await call(api.publish, cent.PublishRequest(channel="own", data="still here"))
        assert (await witness.line())["push"]["pub"]["data"] == "still here"
        why = cent.Disconnect(code=4321, reason="enough")
        await call(api.disconnect, cent.DisconnectRequest(user=user, client=client, disconnect=why))
        await asyncio.wait_for(witness.socket.wait_closed(), timeout=10)
        assert (witness.socket.close_code, witness.socket.close_reason) == (4321, "enough")

    with_witness(server, "own", body)


@pytest.mark.parametrize("parallel", [False, True], ids=["in turn", "parallel"])
def test_a_batch_answers_in_order(api, parallel):
    channel = f"keep:batch-{parallel}"
    requests = [
        cent.PublishRequest(channel=channel, data=1),
        cent.BroadcastRequest(channels=[channel, "plain"], data=2),
        cent.PresenceStatsRequest(channel=channel),
        cent.ChannelsRequest(pattern="nothing*"),
        cent.InfoRequest(),
        cent.DisconnectRequest(user="nobody"),
    ]
    published, broadcast, stats, channels, info, _ = api.batch(
        cent.BatchRequest(requests=requests, parallel=parallel)
    ).replies
    assert published.offset == 1
    assert [one.result.offset for one in broadcast.responses] == [2, 0]
    assert (stats.num_clients, channels.channels, len(info.nodes)) == (0, {}, 1)


def test_errors_have_their_codes(server, api):
    with refused(102):
        api.publish(cent.PublishRequest(channel="nowhere:x", data=1))
    for data in ({"data": None}, {"data": None, "b64data": "AAE="}):
        with refused(107):
            api.publish(cent.PublishRequest(channel="plain", **data))
    api.publish(cent.PublishRequest(channel="binary:x", data=None, b64data="AAE="))
    for method, request in [
        (api.presence, cent.PresenceRequest),
        (api.presence_stats, cent.PresenceStatsRequest),
        (api.history, cent.HistoryRequest),
        (api.history_remove, cent.HistoryRemoveRequest),
    ]:
        with refused(108):
            method(request(channel="plain"))
    with pytest.raises(cent.CentTransportError) as error:
        api.block_user(cent.BlockUserRequest(user="1"))
    assert error.value.status_code == 404
    with pytest.raises(cent.CentUnauthorizedError):
        cent.Client(f"{server.http}/api", "another key").info(cent.InfoRequest())
