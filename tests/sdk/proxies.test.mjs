// Proves with the official JavaScript SDK that the application's backend says who a client is, how
// long it stays, and what it is answered: connect, refresh and rpc proxies.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer, within } from './server.mjs';
import { startBackend } from './backend.mjs';
import {
  OFFERED, WAYS, connect, inSeconds, inbox, later, newClient, next, pack, subscribe, token, unpack,
} from './client.mjs';

const OPEN = namespaces({ open: { allow_subscribe_for_client: true, allow_publish_for_subscriber: true } });
const start = (t, more = [], how = {}) =>
  startServer(t, [...OFFERED, ...OPEN, '--client.expired_close_delay', '5s', ...more], how);
const ERROR = { error: { code: 1000, message: 'not today' } };

for (const way of WAYS) {
  const [transport, encoding] = way.split(' ');

  test(`${way}: the backend says who a client without a token is`, async (t) => {
    const backend = await startBackend(t, {
      connect: () => ({ result: {
        user: 'ann', data: { hello: 'ü' }, info: { name: 'Ann' }, channels: ['news'],
        subs: { 'open:s': { data: { seat: 4 } } },
      } }),
    });
    const server = await start(t, [...backend.as('client.proxy.connect'), '--client.proxy.connect.enabled']);
    const ann = newClient(t, server, way, { data: pack(way, { from: 'the page' }), name: 'page', version: '7' });
    const subs = inbox(ann, 'subscribed');
    const connected = next(ann, 'connected');
    const early = subscribe(ann, 'open:early');
    ann.connect();
    const { client, data } = await connected;
    assert.deepEqual(unpack(data), { hello: 'ü' });
    assert.deepEqual((await subs.first(2)).map(({ channel }) => channel).sort(), ['news', 'open:s']);
    assert.deepEqual(unpack(subs.find(({ channel }) => channel === 'open:s').data), { seat: 4 });
    const sub = await early;
    await sub.publish(pack(way, 'end'));
    await sub.until('end');
    const { info } = sub.publications[0];
    assert.deepEqual([info.user, info.client, unpack(info.connInfo)], ['ann', client, { name: 'Ann' }]);

    const [asked] = backend.of('connect');
    assert.deepEqual([asked.client, asked.transport, asked.protocol, asked.data, asked.name, asked.version],
      [client, transport, encoding, { from: 'the page' }, 'page', '7']);
    await connect(t, server, way, 'bob');
    assert.equal(backend.asked.length, 1, 'a token is enough');
  });

  test(`${way}: the backend refuses a client with an error or a code of its own`, async (t) => {
    const answers = [
      ERROR, { disconnect: { code: 4501, reason: 'stay out' } }, { error: { code: 401, message: 'no' } }];
    const backend = await startBackend(t, { connect: () => answers[backend.asked.length - 1] });
    const server = await start(t, [...backend.as('client.proxy.connect'), '--client.proxy.connect.enabled']);
    for (const [code, reason] of [[1000, 'not today'], [4501, 'stay out'], [401, 'no']]) {
      const client = newClient(t, server, way);
      const disconnected = next(client, 'disconnected');
      client.connect();
      const ctx = await disconnected;
      assert.deepEqual([ctx.code, ctx.reason], [code, reason]);
    }
    assert.equal((await server.api('info')).nodes[0].num_clients, 0);
  });

  test(`${way}: a client of whom the backend says nothing has no credentials`, async (t) => {
    const backend = await startBackend(t, { connect: () => ({}) });
    const server = await start(t, [...backend.as('client.proxy.connect'), '--client.proxy.connect.enabled']);
    const client = newClient(t, server, way);
    const disconnected = next(client, 'disconnected');
    client.connect();
    assert.equal((await disconnected).code, 3501);
  });

  test(`${way}: the client's connection is refreshed by the backend, until it says otherwise`, async (t) => {
    const twice = later();
    const backend = await startBackend(t, {
      connect: () => ({ result: { user: 'ann', expire_at: inSeconds(2) } }),
      refresh: () => {
        if (backend.of('refresh').length < 2) return { result: { expire_at: inSeconds(2) } };
        twice.resolve();
        return { result: { expired: true } };
      },
    });
    const server = await start(t, [
      ...backend.as('client.proxy.connect'), '--client.proxy.connect.enabled',
      ...backend.as('client.proxy.refresh'), '--client.proxy.refresh.enabled',
    ]);
    const client = newClient(t, server, way);
    const connected = next(client, 'connected');
    client.connect();
    const { client: id } = await connected;
    const gone = next(client, 'connecting');
    await within(twice.promise, 'a second refresh');
    assert.equal((await gone).code, 3005);
    const asked = backend.of('refresh')[0];
    assert.deepEqual([asked.client, asked.user], [id, 'ann']);
  });

  test(`${way}: rpc is answered by the backend, in the order it was asked`, async (t) => {
    const backend = await startBackend(t, {
      rpc: ({ method, data, user }) => ({
        add: { result: { data: { sum: data?.a + data?.b, for: user } } },
        nothing: { result: {} },
        fail: ERROR,
        leave: { disconnect: { code: 4503, reason: 'good bye' } },
        break: 500,
      })[method],
    });
    const server = await start(t, [...backend.as('rpc.proxy', 'rpc'), '--rpc.without_namespace.proxy_enabled']);
    const ann = newClient(t, server, way, { token: token({ sub: 'ann' }) });
    const early = ann.rpc('add', pack(way, { a: 1, b: 2 }));
    ann.connect();
    assert.deepEqual(unpack((await early).data), { sum: 3, for: 'ann' });
    const sums = await Promise.all(Array.from({ length: 50 }, (_, n) => ann.rpc('add', pack(way, { a: n, b: n }))));
    assert.deepEqual(sums.map(({ data }) => unpack(data).sum), Array.from({ length: 50 }, (_, n) => 2 * n));
    await assert.rejects(ann.rpc('fail', pack(way, {})), { code: 1000, message: 'not today' });
    await assert.rejects(ann.rpc('break', pack(way, {})), { code: 100 });
    await assert.rejects(ann.rpc('other:method', pack(way, {})), { code: 104 });
    await ann.rpc('nothing', pack(way, {}));
    assert.equal(ann.state, 'connected');
    const gone = next(ann, 'disconnected');
    ann.rpc('leave', pack(way, {})).catch(() => {});
    assert.equal((await gone).code, 4503);
  });
}

test('cookies and headers of the client reach the backend where they are asked for', async (t) => {
  const headers = [];
  const backend = await startBackend(t, {
    connect: (_, given) => { headers.push(given); return { result: { user: 'ann' } }; },
  });
  const server = await start(t, [
    ...backend.as('client.proxy.connect'), '--client.proxy.connect.enabled',
    '--client.proxy.connect.emulated_headers', 'x-session', '--client.proxy.connect.http.static_headers',
    JSON.stringify({ 'x-edge': 'gannet' }),
  ]);
  const client = newClient(t, server, WAYS[0], { headers: { 'X-Session': 'abc', 'X-Other': 'not this' } });
  const connected = next(client, 'connected');
  client.connect();
  await connected;
  const [given] = headers;
  assert.deepEqual([given['x-session'], given['x-other'], given['x-edge']], ['abc', undefined, 'gannet']);
});
