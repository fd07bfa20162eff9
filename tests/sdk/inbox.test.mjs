// Proves with the official JavaScript SDK that an inbox needs nothing of it: who was away, and comes
// without a position, is sent what has not arrived, and its own pongs prove the rest.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer, within } from './server.mjs';
import { OFFERED, WAYS, connect, inbox, newClient, next, pack, subscribe, token, unpack } from './client.mjs';

const KEPT = { allow_subscribe_for_client: true, history_size: 100, history_ttl: '600s', inbox: { enabled: true } };
const INBOX = namespaces({ room: KEPT, own: KEPT });
const PERSONAL = [
  '--client.subscribe_to_user_personal_channel.enabled',
  '--client.subscribe_to_user_personal_channel.personal_channel_namespace', 'own',
];
const start = (t, more = []) => startServer(t, [...OFFERED, ...INBOX, '--prometheus.enabled', ...more]);
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, n) => from + n);

async function tell(server, channel, from, to) {
  for (let n = from; n <= to; n += 1) await server.api('publish', { channel, data: n });
}

const acknowledge = (client, way, params = {}) => client.rpc('inbox.ack', pack(way, params));

/** Waits until so many proofs have moved a cursor. */
const proofs = (server, count) => within((async () => {
  for (;;) {
    const page = await (await fetch(`${server.http}/metrics`)).text();
    if (Number(/^gannet_inbox_proofs_total (\d+)/m.exec(page)?.[1]) >= count) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
})(), `${count} proofs`, 60_000);

for (const way of WAYS) {
  test(`${way}: a client without a position is sent what has not arrived`, async (t) => {
    const server = await start(t);
    const first = await connect(t, server, way, 'ann');
    const sub = await subscribe(first, 'room:a');
    assert.deepEqual([sub.began.wasRecovering, sub.began.recoverable], [false, true]);
    await tell(server, 'room:a', 1, 2);
    await sub.until(2);
    await acknowledge(first, way);
    first.disconnect();
    await tell(server, 'room:a', 3, 5);

    const second = await connect(t, server, way, 'ann');
    const again = await subscribe(second, 'room:a');
    assert.deepEqual([again.began.wasRecovering, again.began.recovered], [true, true]);
    assert.deepEqual(await again.until(5), [3, 4, 5]);
    await tell(server, 'room:a', 6, 6);
    assert.deepEqual(await again.until(6), [3, 4, 5, 6]);
    // A part of it.
    await acknowledge(second, way, { channel: 'room:a', offset: 4 });
    second.disconnect();
    const third = await connect(t, server, way, 'ann');
    assert.deepEqual(await (await subscribe(third, 'room:a')).until(6), [5, 6]);
    const other = await connect(t, server, way, 'bob');
    assert.equal((await subscribe(other, 'room:a')).began.wasRecovering, false);
  });

  test(`${way}: what does not fit one reply comes in parts`, async (t) => {
    const server = await start(t, [...PERSONAL, '--client.recovery_max_publication_limit=10']);
    const first = await connect(t, server, way, 'ann');
    await subscribe(first, 'room:a');
    first.disconnect();
    await tell(server, 'room:a', 1, 25);
    await tell(server, 'own:#ann', 1, 25);

    const client = newClient(t, server, way, { token: token({ sub: 'ann' }) });
    const heard = inbox(client, 'publication', ({ data }) => unpack(data));
    const connected = next(client, 'connected');
    client.connect();
    await connected;
    // Its own channel brings the client back twice, as the server made that subscription.
    const sub = await subscribe(client, 'room:a');
    await heard.first(25);
    await sub.until(25);
    await tell(server, 'own:#ann', 26, 26);
    await tell(server, 'room:a', 26, 26);
    assert.deepEqual(await heard.first(26), range(1, 26));
    assert.deepEqual(await sub.until(26), range(1, 26));
  });
}

test('the pong of the SDK proves what was sent before its ping', async (t) => {
  const server = await start(t, ['--client.ping_interval=4s', '--client.pong_timeout=3900ms']);
  let count = 0;
  for (const way of WAYS) {
    const channel = `room:${way.replace(' ', '-')}`;
    const first = await connect(t, server, way, 'ann');
    const sub = await subscribe(first, channel);
    await tell(server, channel, 1, 2);
    await sub.until(2);
    await proofs(server, count += 1);
    first.disconnect();
    await tell(server, channel, 3, 3);
    const second = await connect(t, server, way, 'ann');
    assert.deepEqual(await (await subscribe(second, channel)).until(3), [3]);
    second.disconnect();
  }
});
