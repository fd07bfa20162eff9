// Proves with the official JavaScript SDK what the backend's other API methods do to clients:
// subscribe, refresh, presence, history and its removal, and publications with options of their own.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer } from './server.mjs';
import {
  OFFERED, WAYS, connect, inSeconds, inbox, newClient, next, pack, subscribe, token, unpack,
} from './client.mjs';

const KEPT = { allow_subscribe_for_client: true, history_size: 20, history_ttl: '60s' };
const CHANNELS = namespaces({
  match: { ...KEPT, allowed_delta_types: ['fossil'], allow_history_for_subscriber: true },
  safe: { ...KEPT, force_recovery: true, presence: true, allow_publish_for_subscriber: true },
});
const start = (t, more = [], how = {}) => startServer(t, [...OFFERED, ...CHANNELS, ...more], how);
const line = (n) => ({ n, text: 'the same each time, '.repeat(20) });

for (const way of WAYS) {
  test(`${way}: a publication is a delta where the backend says so`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'match:a', { delta: 'fossil' });
    for (const [n, delta] of [[1, true], [2, true], [3, false], [4, true], [5, true]]) {
      await server.api('publish', { channel: 'match:a', data: line(n), delta });
    }
    assert.deepEqual(await sub.until(line(5)), [1, 2, 3, 4, 5].map(line));
    const { numFullPayloads, numDeltaPayloads } = sub.deltaStats();
    assert.deepEqual([numFullPayloads, numDeltaPayloads], [2, 3]);
    await server.api('broadcast', { channels: ['match:a'], data: line(6), delta: true });
    await sub.until(line(6));
    assert.equal(sub.deltaStats().numDeltaPayloads, 4);
  });

  test(`${way}: repeated keys, old versions and what is not to be kept`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'match:b');
    const publish = (data, options) => server.api('publish', { channel: 'match:b', data, ...options });
    const first = await publish(1, { idempotency_key: 'a' });
    assert.deepEqual(await publish('again', { idempotency_key: 'a' }), first);
    await publish(2, { version: 5 });
    await publish('old', { version: 4 });
    await publish(3, { version: 6 });
    await publish(4, { version: 1, version_epoch: 'another' });
    await publish('unkept', { skip_history: true });
    assert.deepEqual(await sub.until('unkept'), [1, 2, 3, 4, 'unkept']);
    const { publications } = await sub.history({ limit: -1 });
    assert.deepEqual(publications.map(({ data }) => unpack(data)), [1, 2, 3, 4]);
  });

  test(`${way}: the backend subscribes a client, with data, recovery and an end`, async (t) => {
    const server = await start(t, ['--client.expired_sub_close_delay', '1s']);
    await server.api('publish', { channel: 'safe:a', data: 1 });
    const { epoch } = await server.api('history', { channel: 'safe:a' });
    await server.api('publish', { channel: 'safe:a', data: 2 });
    const ann = await connect(t, server, way, 'ann');
    const subscribed = inbox(ann, 'subscribed');
    const heard = inbox(ann, 'publication', ({ data }) => unpack(data));
    await server.api('subscribe', {
      user: 'ann', channel: 'safe:a', data: { hello: 'ü' }, info: { seat: 4 }, recover_since: { offset: 1, epoch },
    });
    const [{ channel, recoverable, data }] = await subscribed.first(1);
    assert.deepEqual([channel, recoverable, unpack(data)], ['safe:a', true, { hello: 'ü' }]);
    await server.api('publish', { channel: 'safe:a', data: 3 });
    assert.deepEqual(await heard.first(2), [2, 3]);
    const { presence } = await server.api('presence', { channel: 'safe:a' });
    assert.deepEqual(presence, { [ann.id]: { client: ann.id, user: 'ann', chan_info: { seat: 4 } } });
    assert.deepEqual(await server.api('presence_stats', { channel: 'safe:a' }), { num_clients: 1, num_users: 1 });
    await server.api('subscribe', { user: 'nobody', channel: 'safe:a' });

    const bob = await connect(t, server, way, 'bob');
    const over = next(bob, 'connecting');
    await server.api('subscribe', { user: 'bob', channel: 'safe:b', expire_at: inSeconds(1) });
    assert.equal((await over).code, 3006);
  });

  test(`${way}: history is read and removed, its position stays`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'safe:c');
    await sub.publish(pack(way, 1));
    await server.api('publish', { channel: 'safe:c', data: 2, tags: { lang: 'de' } });
    await sub.until(2);
    const { publications, offset, epoch } = await server.api('history', { channel: 'safe:c', limit: -1 });
    assert.deepEqual([publications.map((pub) => pub.data), offset], [[1, 2], 2]);
    assert.deepEqual([publications[0].info.user, publications[1].tags], ['ann', { lang: 'de' }]);
    const newest = await server.api('history', { channel: 'safe:c', limit: 1, reverse: true });
    assert.deepEqual(newest.publications.map((pub) => pub.data), [2]);
    assert.deepEqual(await server.api('history_remove', { channel: 'safe:c' }), {});
    const left = await server.api('history', { channel: 'safe:c', limit: -1 });
    assert.deepEqual(left, { publications: [], offset: 2, epoch });
    await server.api('publish', { channel: 'safe:c', data: 3 });
    assert.deepEqual(await sub.until(3), [1, 2, 3]);
    await assert.rejects(server.api('history', { channel: 'safe:c', limit: 1, since: { offset: 1, epoch: 'old' } }),
      { code: 112 });
  });

  test(`${way}: the backend refreshes a connection, or ends its time`, async (t) => {
    const server = await start(t, ['--client.expired_close_delay', '1s']);
    const never = { getToken: () => new Promise(() => {}) };
    const ann = newClient(t, server, way, { token: token({ sub: 'ann', exp: inSeconds(2) }), ...never });
    const states = inbox(ann, 'state');
    const connected = next(ann, 'connected');
    ann.connect();
    await connected;
    const watch = await connect(t, server, way, 'bob', { token: token({ sub: 'bob', exp: inSeconds(2) }), ...never });
    await server.api('refresh', { user: 'ann', expire_at: inSeconds(600) });
    assert.equal((await next(watch, 'connecting')).code, 3005, 'nobody refreshed this one');
    assert.deepEqual(states.map(({ newState }) => newState), ['connecting', 'connected']);
    const gone = next(ann, 'connecting');
    await server.api('refresh', { user: 'ann', expired: true });
    assert.equal((await gone).code, 3005);
  });
}
