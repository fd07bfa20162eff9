// Proves how a connection ends, or does not: what the backend may end, pings and pongs, a frozen
// server, and a restart that clients survive, with the official JavaScript SDK.
import test from 'node:test';
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { startServer, within } from './server.mjs';
import { ENCODINGS, connect, newClient, next, openSocket, pack, subscribe, token } from './client.mjs';

const OPEN = [
  '--channel.without_namespace.allow_subscribe_for_client',
  '--channel.without_namespace.allow_publish_for_subscriber',
];

for (const encoding of ENCODINGS) {
  test(`${encoding}: the backend unsubscribes with 2000, and only that`, async (t) => {
    const server = await startServer(t, OPEN);
    const [ann, bob] = [await connect(t, server, encoding, 'ann'), await connect(t, server, encoding, 'bob')];
    const [talk, kept, his] = [
      await subscribe(ann, 'talk'), await subscribe(ann, 'kept'), await subscribe(bob, 'talk')];
    const unsubscribed = next(talk, 'unsubscribed');
    await server.api('unsubscribe', { user: 'ann', channel: 'talk' });
    const { code, reason } = await unsubscribed;
    assert.deepEqual({ code, reason }, { code: 2000, reason: 'server unsubscribe' });
    await server.api('broadcast', { channels: ['talk', 'kept'], data: 'end' });
    assert.deepEqual(await his.until('end'), ['end']);
    assert.deepEqual(await kept.until('end'), ['end']);
    assert.deepEqual(talk.heard, []);
  });

  test(`${encoding}: the backend disconnects with 3503 for good`, async (t) => {
    const server = await startServer(t, OPEN);
    const [ann, bob] = [await connect(t, server, encoding, 'ann'), await connect(t, server, encoding, 'bob')];
    const disconnected = next(ann, 'disconnected');
    await server.api('disconnect', { user: 'ann' });
    const { code, reason } = await disconnected;
    assert.deepEqual({ code, reason }, { code: 3503, reason: 'force disconnect' });
    assert.equal(ann.state, 'disconnected');
    assert.equal(bob.state, 'connected');
  });

  test(`${encoding}: a disconnect of the backend's own making`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann');
    const talk = await subscribe(ann, 'talk');
    const [connecting, back] = [next(ann, 'connecting'), next(talk, 'subscribing').then(() => talk.ready(5000))];
    await server.api('disconnect', { user: 'ann', disconnect: { code: 4000, reason: 'come again' } });
    const { code, reason } = await connecting;
    assert.deepEqual({ code, reason }, { code: 4000, reason: 'come again' });
    await within(back, 'the subscription after a reconnect');

    const disconnected = next(ann, 'disconnected');
    await server.api('disconnect', { user: 'ann', disconnect: { code: 4500, reason: 'stay out' } });
    const end = await disconnected;
    assert.deepEqual({ code: end.code, reason: end.reason }, { code: 4500, reason: 'stay out' });
  });

  test(`${encoding}: pings each second are answered and keep the connection`, async (t) => {
    const server = await startServer(t, [
      ...OPEN, '--client.ping_interval', '1s', '--client.pong_timeout', '500ms']);
    let pings = 0;
    let enough;
    const fourPings = new Promise((resolve) => { enough = resolve; });
    class Listening extends WebSocket {
      constructor(...args) {
        super(...args);
        this.on('message', (data) => {
          if (Buffer.from(data).equals(Buffer.from(encoding === 'json' ? '{}' : [0]))) pings += 1;
          if (pings === 4) enough();
        });
      }
    }
    const ann = await connect(t, server, encoding, 'ann', { maxServerPingDelay: 1500, websocket: Listening });
    const states = [];
    ann.on('state', ({ newState }) => states.push(newState));
    await within(fourPings, 'four pings');
    assert.deepEqual(states, [], 'a pong the server missed would have ended the connection');
  });

  test(`${encoding}: SIGTERM tells clients 3001 and they find the next server`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann');
    const talk = await subscribe(ann, 'talk');
    const connecting = next(ann, 'connecting');
    server.signal('SIGTERM');
    const { code, reason } = await connecting;
    assert.deepEqual({ code, reason }, { code: 3001, reason: 'shutdown' });
    assert.equal((await server.stop()).code, 0);

    const again = next(talk, 'subscribed');
    const successor = await startServer(t, OPEN, { port: server.port });
    await again;
    await successor.api('publish', { channel: 'talk', data: 'after the restart' });
    assert.deepEqual(await talk.until('after the restart'), ['after the restart']);
  });

  test(`${encoding}: SIGKILL is survived as well`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann');
    const talk = await subscribe(ann, 'talk');
    await server.stop('SIGKILL');
    const again = next(talk, 'subscribed');
    await startServer(t, OPEN, { port: server.port });
    await again;
    await talk.publish(pack(encoding, 1));
    assert.deepEqual(await talk.until(1), [1]);
  });

  test(`${encoding}: a client leaves a frozen server, and is back when it thaws`, async (t) => {
    const server = await startServer(t, [
      ...OPEN, '--client.ping_interval', '1s', '--client.pong_timeout', '500ms']);
    const ann = await connect(t, server, encoding, 'ann', { maxServerPingDelay: 200, timeout: 1000 });
    const connecting = next(ann, 'connecting');
    server.signal('SIGSTOP');
    const { code } = await connecting;
    assert.equal(code, 2, 'the code of "no ping"');
    const connected = next(ann, 'connected');
    server.signal('SIGCONT');
    await connected;
  });
}

test('a client that answers no ping is closed with 3012', async (t) => {
  const server = await startServer(t, ['--client.ping_interval', '1s', '--client.pong_timeout', '500ms']);
  const socket = await openSocket(t, server);
  socket.send(JSON.stringify({ id: 1, connect: { token: token({ sub: 'ann' }) } }));
  const reply = JSON.parse(await socket.frame());
  assert.equal(reply.connect.ping, 1);
  assert.equal(reply.connect.pong, true);
  assert.equal(await socket.frame(), '{}');
  assert.deepEqual(await socket.closed(), { code: 3012, reason: 'no pong' });
});

test('a second client keeps its connection when the first of the same user is ended by id', async (t) => {
  const server = await startServer(t, OPEN);
  const first = newClient(t, server, 'json', { token: token({ sub: 'ann' }) });
  const connected = next(first, 'connected');
  first.connect();
  const { client } = await connected;
  const second = await connect(t, server, 'json', 'ann');
  const disconnected = next(first, 'disconnected');
  await server.api('disconnect', { user: 'ann', client });
  assert.equal((await disconnected).code, 3503);
  assert.equal(second.state, 'connected');
});
