// Proves that clients of the official JavaScript SDK, in both encodings, hear each other and the
// backend: every publication once, in one order for all, over several reactors.
import test from 'node:test';
import assert from 'node:assert/strict';
import { startServer } from './server.mjs';
import { ENCODINGS, connect, next, pack, subscribe, unpack } from './client.mjs';

const OPEN = [
  '--channel.without_namespace.allow_subscribe_for_client',
  '--channel.without_namespace.allow_publish_for_subscriber',
];
const other = (encoding) => (encoding === 'json' ? 'protobuf' : 'json');

for (const encoding of ENCODINGS) {
  test(`${encoding}: two clients hear each other and themselves`, async (t) => {
    const server = await startServer(t, OPEN);
    const [ann, bob] = await Promise.all([
      connect(t, server, encoding, 'ann'), connect(t, server, encoding, 'bob')]);
    const [hers, his] = await Promise.all([subscribe(ann, 'talk'), subscribe(bob, 'talk')]);

    const line = { text: 'grüße, "Bob" \n <b>☃</b>', n: 1.5, list: [null, true, {}] };
    await hers.publish(pack(encoding, line));
    await Promise.all([hers.until(line), his.until(line)]);
    await his.publish(pack(encoding, 'answer'));
    assert.deepEqual(await hers.until('answer'), [line, 'answer']);
    assert.deepEqual(await his.until('answer'), [line, 'answer']);
  });

  test(`${encoding}: a publication names its publisher`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann', { name: 'checker' });
    const connected = next(ann, 'connected');
    ann.disconnect();
    ann.connect();
    const { client, transport } = await connected;
    assert.equal(transport, 'websocket');
    const talk = await subscribe(ann, 'talk');
    await talk.publish(pack(encoding, 1));
    await server.api('publish', { channel: 'talk', data: 2 });
    await talk.until(2);
    assert.equal(talk.publications[0].info.user, 'ann');
    assert.equal(talk.publications[0].info.client, client);
    assert.equal(talk.publications[1].info, undefined);
  });

  test(`${encoding}: hears a client of the other encoding`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann');
    const bob = await connect(t, server, other(encoding), 'bob');
    const [hers, his] = await Promise.all([subscribe(ann, 'talk'), subscribe(bob, 'talk')]);
    const line = { text: 'line one\nline two', deep: { a: [1, 2, { b: 'ü' }] } };
    await hers.publish(pack(encoding, line));
    assert.deepEqual(await his.until(line), [line]);
  });

  test(`${encoding}: unsubscribe and subscribe again at once, fifty times`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann');
    const talk = await subscribe(ann, 'talk');
    const errors = [];
    talk.on('error', (ctx) => errors.push(ctx.error));
    for (let round = 0; round < 50; round += 1) {
      talk.unsubscribe();
      talk.subscribe();
    }
    await talk.ready(5000);
    await talk.publish(pack(encoding, 'first'));
    await talk.publish(pack(encoding, 'last'));
    assert.deepEqual(await talk.until('last'), ['first', 'last']);
    assert.deepEqual(errors, []);
    const { channels } = await server.api('channels');
    assert.deepEqual(channels, { talk: { num_clients: 1 } });
  });

  test(`${encoding}: an unsubscribed client hears nothing more`, async (t) => {
    const server = await startServer(t, OPEN);
    const ann = await connect(t, server, encoding, 'ann');
    const [left, kept] = [await subscribe(ann, 'left'), await subscribe(ann, 'kept')];
    left.unsubscribe();
    await kept.publish(pack(encoding, 'the unsubscribe is done'));
    await server.api('publish', { channel: 'left', data: 'not for her' });
    await server.api('publish', { channel: 'kept', data: 'end' });
    await kept.until('end');
    assert.deepEqual(left.heard, []);
    await server.hasChannels({ kept: { num_clients: 1 } });
  });
}

test('the backend publishes and broadcasts to both encodings', async (t) => {
  const server = await startServer(t, OPEN);
  const listeners = await Promise.all(ENCODINGS.map(async (encoding) => {
    const client = await connect(t, server, encoding, encoding);
    return { news: await subscribe(client, 'news'), sport: await subscribe(client, 'sport') };
  }));
  const story = { title: 'ü "quoted"', body: 'a\nb', tags: [1, 2, 3] };
  await server.api('publish', { channel: 'news', data: story });
  const { responses } = await server.api('broadcast', { channels: ['news', 'sport'], data: 'end' });
  assert.equal(responses.length, 2);
  for (const { news, sport } of listeners) {
    assert.deepEqual(await news.until('end'), [story, 'end']);
    assert.deepEqual(await sport.until('end'), ['end']);
  }
});

test('tags of the backend reach both encodings', async (t) => {
  const server = await startServer(t, OPEN);
  for (const encoding of ENCODINGS) {
    const client = await connect(t, server, encoding, encoding);
    const news = await subscribe(client, 'news');
    await server.api('publish', { channel: 'news', data: {}, tags: { lang: 'de', kind: 'ü' } });
    await news.until({});
    assert.deepEqual({ ...news.publications[0].tags }, { lang: 'de', kind: 'ü' });
  }
});

test('channels and info count what is there', async (t) => {
  const server = await startServer(t, OPEN);
  const clients = await Promise.all(['u1', 'u1', 'u2'].map((user, i) =>
    connect(t, server, ENCODINGS[i % 2], user)));
  await Promise.all(clients.map((client) => subscribe(client, 'room-a')));
  await subscribe(clients[0], 'other');
  const { channels } = await server.api('channels');
  assert.deepEqual(channels, { 'room-a': { num_clients: 3 }, other: { num_clients: 1 } });
  const filtered = await server.api('channels', { pattern: 'room-*' });
  assert.deepEqual(filtered.channels, { 'room-a': { num_clients: 3 } });
  const { nodes } = await server.api('info');
  assert.equal(nodes.length, 1);
  assert.equal(nodes[0].num_clients, 3);
});

test('the server API refuses a wrong key', async (t) => {
  const server = await startServer(t, OPEN);
  for (const key of ['', 'wrong', 'test-api-ke', 'test-api-keyy']) {
    const response = await server.post('publish', { channel: 'news', data: 1 }, key);
    assert.equal(response.status, 401, `key "${key}"`);
  }
  await assert.rejects(server.api('publish', { channel: 'no-such:ns', data: 1 }), { code: 102 });
  await assert.rejects(server.api('publish', { channel: '', data: 1 }), { code: 107 });
});

test('forty clients in several reactors hear 400 publications once each, in one order', async (t) => {
  const server = await startServer(t, OPEN, { reactors: 4 });
  const clients = await Promise.all(Array.from({ length: 40 }, (_, i) =>
    connect(t, server, ENCODINGS[i % 2], `user${i}`)));
  const rooms = await Promise.all(clients.map((client) => subscribe(client, 'crowd')));

  // Four publishers at once: three clients and the backend. Each keeps its own order; the
  // channel's owner makes one order of all four.
  const share = 100;
  const line = (from, n) => `${from}:${n}`;
  const fromClient = async (i) => {
    const encoding = ENCODINGS[i % 2];
    for (let n = 0; n < share; n += 1) await rooms[i].publish(pack(encoding, line(i, n)));
  };
  const fromBackend = async () => {
    for (let n = 0; n < share; n += 1) {
      await server.api('publish', { channel: 'crowd', data: line('backend', n) });
    }
  };
  await Promise.all([fromClient(0), fromClient(1), fromClient(2), fromBackend()]);
  await server.api('publish', { channel: 'crowd', data: 'end' });

  const first = await rooms[0].until('end', 20_000);
  assert.equal(first.length, 4 * share + 1);
  for (const from of [0, 1, 2, 'backend']) {
    const mine = first.filter((text) => text.startsWith(`${from}:`));
    assert.deepEqual(mine, Array.from({ length: share }, (_, n) => line(from, n)));
  }
  for (const room of rooms) assert.deepEqual(await room.until('end', 20_000), first);
});

test('publications sent without waiting for replies keep their order', async (t) => {
  const server = await startServer(t, OPEN);
  for (const encoding of ENCODINGS) {
    const ann = await connect(t, server, encoding, 'ann');
    const bob = await connect(t, server, other(encoding), 'bob');
    const channel = `burst-${encoding}`;
    const [hers, his] = [await subscribe(ann, channel), await subscribe(bob, channel)];
    const numbers = Array.from({ length: 300 }, (_, n) => n);
    await Promise.all(numbers.map((n) => hers.publish(pack(encoding, n))));
    assert.deepEqual(await his.until(299), numbers);
    assert.deepEqual(await hers.until(299), numbers);
    assert.equal(typeof unpack(his.publications[0].data), 'number');
  }
});

test('a publication that was answered comes before whatever anyone publishes after it', async (t) => {
  const server = await startServer(t, OPEN, { reactors: 4 });
  const clients = await Promise.all(Array.from({ length: 8 }, (_, i) =>
    connect(t, server, ENCODINGS[i % 2], `user${i}`)));
  const rooms = await Promise.all(clients.map((client) => subscribe(client, 'turns')));
  // Each waits for the answer before the next one speaks: so there is one right order.
  for (let n = 0; n < 400; n += 1) {
    if (n % 9 === 8) await server.api('publish', { channel: 'turns', data: n });
    else await rooms[n % 9].publish(pack(ENCODINGS[(n % 9) % 2], n));
  }
  const right = Array.from({ length: 400 }, (_, n) => n);
  for (const room of rooms) assert.deepEqual(await room.until(399), right);
});
