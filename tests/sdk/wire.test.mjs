// Proves what the SDKs rely on below their interface, with a bare WebSocket: several commands in
// one frame, replies in order, encodings, and the close codes of clients that break the protocol.
import test from 'node:test';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { startServer } from './server.mjs';
import { openSocket, token } from './client.mjs';

const OPEN = [
  '--channel.without_namespace.allow_subscribe_for_client',
  '--channel.without_namespace.allow_publish_for_subscriber',
];
// Too big by itself, and it would not get small enough if it were compressed.
const BIG = randomBytes(70_000).toString('base64');
const TOKEN = token({ sub: 'ann' });
const json = (...commands) => commands.map((command) => JSON.stringify(command)).join('\n');

/** Reads frames until `count` replies or pushes have come. */
async function replies(socket, count) {
  const all = [];
  while (all.length < count) {
    const lines = (await socket.frame()).split('\n');
    all.push(...lines.map((line) => JSON.parse(line)));
  }
  return all;
}

/** Protobuf by hand, so that no codec is shared with anyone. */
const length = (n) => (n < 128 ? [n] : [n & 127 | 128, n >> 7]);
const field = (number, bytes) => Buffer.concat([Buffer.from([number << 3 | 2, ...length(bytes.length)]), bytes]);
const text = (number, value) => field(number, Buffer.from(value));
const command = (id, number, body) => {
  const bytes = Buffer.concat([Buffer.from([8, id]), field(number, body)]);
  return Buffer.concat([Buffer.from(length(bytes.length)), bytes]);
};

test('JSON: seven commands in one frame are answered in order', async (t) => {
  const server = await startServer(t, OPEN);
  const socket = await openSocket(t, server);
  assert.equal(socket.subprotocol, '');
  socket.send(json(
    { connect: { token: TOKEN, name: 'js' }, id: 1 },
    { subscribe: { channel: 'talk', flag: 1 }, id: 2 },
    { unsubscribe: { channel: 'talk' }, id: 3 },
    { subscribe: { channel: 'talk', some_later_field: [1] }, id: 4 },
    { subscribe: { channel: 'talk' }, id: 5 },
    { publish: { channel: 'elsewhere', data: 1 }, id: 6 },
    { publish: { channel: 'talk', data: { n: 1 } }, id: 7 },
  ) + '\n');
  const all = await replies(socket, 8);
  const answers = all.filter((reply) => reply.id);
  assert.deepEqual(answers.map((reply) => reply.id), [1, 2, 3, 4, 5, 6, 7]);
  assert.match(answers[0].connect.client, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.ok(answers[0].connect.version);
  assert.equal(answers[0].connect.ping, 25);
  assert.equal(answers[0].connect.pong, true);
  assert.deepEqual(answers[1], { id: 2, subscribe: {} });
  assert.deepEqual(answers[2], { id: 3, unsubscribe: {} });
  assert.deepEqual(answers[3], { id: 4, subscribe: {} });
  assert.deepEqual(answers[4], { id: 5, error: { code: 105, message: 'already subscribed' } });
  assert.deepEqual(answers[5], { id: 6, error: { code: 103, message: 'permission denied' } });
  assert.deepEqual(answers[6], { id: 7, publish: {} });
  const pushes = all.filter((reply) => reply.push);
  assert.deepEqual(pushes, [{ push: { channel: 'talk', pub: {
    data: { n: 1 }, info: { user: 'ann', client: answers[0].connect.client } } } }]);
  const subscribed = all.findIndex((reply) => reply.id === 4);
  assert.ok(subscribed < all.findIndex((reply) => reply.push), 'the push comes after its subscribe reply');
});

test('Protobuf: two commands in one frame, in bytes made by hand', async (t) => {
  const server = await startServer(t, OPEN);
  const socket = await openSocket(t, server, { protobuf: true });
  assert.equal(socket.subprotocol, 'centrifuge-protobuf');
  socket.send(Buffer.concat([
    command(1, 4, text(1, TOKEN)),
    command(2, 5, text(1, 'talk')),
  ]));
  let bytes = Buffer.alloc(0);
  const found = [];
  while (found.length < 2) {
    bytes = Buffer.concat([bytes, await socket.frame()]);
    while (bytes.length && bytes.length > bytes[0]) {
      found.push(bytes.subarray(1, 1 + bytes[0]));
      bytes = bytes.subarray(1 + bytes[0]);
    }
  }
  assert.equal(found[0].subarray(0, 2).toString('hex'), '0801', 'id 1');
  assert.equal(found[0][2], 5 << 3 | 2, 'a connect result');
  assert.equal(found[1].toString('hex'), '08023200', 'id 2, an empty subscribe result');
  await server.api('publish', { channel: 'talk', data: {} });
  const push = await socket.frame();
  assert.equal(push.toString('hex'), '0e220c120474616c6b220422027b7d');
});

test('payloads are passed on as they are, newlines aside', async (t) => {
  const server = await startServer(t, OPEN);
  const socket = await openSocket(t, server);
  socket.send(json({ id: 1, connect: { token: TOKEN } }, { id: 2, subscribe: { channel: 'talk' } }));
  await replies(socket, 2);
  const data = '{ "big":123456789012345678901234567890, "x":1.0e2, "u":"\\u00fc\\n" }';
  await fetch(`${server.http}/api/publish`, {
    method: 'POST', headers: { 'X-API-Key': 'test-api-key' },
    body: `{"channel":"talk",\n"data":${data.replace('{', '{\n')}}`,
  });
  const frame = await socket.frame();
  assert.equal(frame.includes('\n'), false, 'a newline would end the reply');
  assert.match(frame, /123456789012345678901234567890/);
  assert.match(frame, /1\.0e2/);
});

const connectFirst = json({ id: 1, connect: { token: TOKEN } });
const broken = {
  'a command before connect': [[json({ id: 1, subscribe: { channel: 'talk' } })], 3501],
  'a second connect': [[connectFirst, json({ id: 2, connect: {} })], 3501],
  'not JSON': [[connectFirst, '{"id":2,'], 3501],
  'an empty frame': [[connectFirst, ''], 3501],
  'an empty channel': [[connectFirst, json({ id: 2, subscribe: { channel: '' } })], 3501],
  'send, which nothing answers': [[connectFirst, json({ send: { data: 1 } })], 3508],
  'a message too big': [[connectFirst, json({ id: 2, publish: { channel: 'talk', data: BIG } })], 1009],
};
for (const [what, [frames, code]] of Object.entries(broken)) {
  test(`${what} closes with ${code}`, async (t) => {
    const server = await startServer(t, OPEN);
    const socket = await openSocket(t, server);
    for (const frame of frames) socket.send(frame);
    assert.equal((await socket.closed()).code, code);
  });
}

test('Protobuf whose length goes past its end closes with 3501', async (t) => {
  const server = await startServer(t, OPEN);
  const socket = await openSocket(t, server, { protobuf: true });
  socket.send(Buffer.from('0908012204', 'hex'));
  assert.equal((await socket.closed()).code, 3501);
});

test('a client that sends no connect closes with 3502', async (t) => {
  const server = await startServer(t, ['--client.stale_close_delay', '1s']);
  const socket = await openSocket(t, server);
  assert.deepEqual(await socket.closed(), { code: 3502, reason: 'stale' });
});

test('a channel name too long is refused with 107, too many channels with 106', async (t) => {
  const server = await startServer(t, [...OPEN, '--client.channel_limit', '3']);
  const socket = await openSocket(t, server);
  socket.send(json({ id: 1, connect: { token: TOKEN } }, { id: 2, subscribe: { channel: 'x'.repeat(256) } },
    ...[3, 4, 5, 6].map((id) => ({ id, subscribe: { channel: `c${id}` } }))));
  const all = await replies(socket, 6);
  assert.equal(all[1].error.code, 107);
  assert.deepEqual(all.slice(2, 5).map((reply) => reply.error), [undefined, undefined, undefined]);
  assert.equal(all[5].error.code, 106);
});
