// Proves who gets in and who does not, with the official JavaScript SDK: no token, good, bad,
// expired and expiring tokens, and the permissions of channels.
import test from 'node:test';
import assert from 'node:assert/strict';
import { startServer, within } from './server.mjs';
import {
  ENCODINGS, connect, inSeconds, newClient, next, nextError, pack, subscribe, token, unpack,
} from './client.mjs';

const SUBSCRIBE = '--channel.without_namespace.allow_subscribe_for_client';

/** Connects with `options` and gives how the server ended it. */
async function refused(t, server, encoding, options) {
  const client = newClient(t, server, encoding, options);
  let connectedOnce = false;
  client.on('connected', () => { connectedOnce = true; });
  const disconnected = next(client, 'disconnected');
  client.connect();
  const { code, reason } = await disconnected;
  assert.equal(connectedOnce, false);
  assert.equal(client.state, 'disconnected');
  return { code, reason };
}

for (const encoding of ENCODINGS) {
  test(`${encoding}: without a token a client is refused, and does not come back`, async (t) => {
    const server = await startServer(t);
    const { code, reason } = await refused(t, server, encoding, {});
    assert.deepEqual({ code, reason }, { code: 3501, reason: 'bad request' });
  });

  test(`${encoding}: bad tokens end with 3500`, async (t) => {
    const server = await startServer(t);
    const good = token({ sub: 'ann' });
    const bad = {
      'another key': token({ sub: 'ann' }, { secret: 'not the key' }),
      'no signature': `${good.split('.').slice(0, 2).join('.')}.`,
      'alg none': `${token({ sub: 'ann' }, { header: { alg: 'none' } }).split('.').slice(0, 2).join('.')}.`,
      'not a token': 'abc',
      'claims changed': [good.split('.')[0], token({ sub: 'eve' }).split('.')[1], good.split('.')[2]].join('.'),
      'a subscription token': token({ sub: 'ann', channel: 'talk' }),
    };
    for (const [what, value] of Object.entries(bad)) {
      const { code, reason } = await refused(t, server, encoding, { token: value });
      assert.deepEqual({ code, reason }, { code: 3500, reason: 'invalid token' }, what);
    }
  });

  test(`${encoding}: a good token connects, and names the publisher`, async (t) => {
    const server = await startServer(t, [SUBSCRIBE, '--channel.without_namespace.allow_publish_for_client']);
    const ann = await connect(t, server, encoding, 'ann', {
      token: token({ sub: 'ann', exp: inSeconds(600), iat: inSeconds(0), info: { name: 'Ann' } }),
    });
    const talk = await subscribe(ann, 'talk');
    await ann.publish('talk', pack(encoding, 'x'));
    await talk.until('x');
    const { info } = talk.publications[0];
    assert.equal(info.user, 'ann');
    assert.deepEqual(unpack(info.connInfo), { name: 'Ann' });
  });

  test(`${encoding}: an expired token is answered 109 and a new one asked for`, async (t) => {
    const server = await startServer(t);
    let asked = 0;
    const client = newClient(t, server, encoding, {
      token: token({ sub: 'ann', exp: inSeconds(-60) }),
      getToken: async () => { asked += 1; return token({ sub: 'ann', exp: inSeconds(600) }); },
    });
    const [expired, connected] = [nextError(client, 109), next(client, 'connected')];
    client.connect();
    await expired;
    await connected;
    assert.equal(asked, 1);
  });

  test(`${encoding}: an expiring token is refreshed without losing the connection`, async (t) => {
    const server = await startServer(t, ['--client.expired_close_delay', '5s']);
    let give;
    const askedTwice = new Promise((resolve) => { give = resolve; });
    const tokens = [inSeconds(2), inSeconds(4), inSeconds(600)].map((exp) => token({ sub: 'ann', exp }));
    let asked = 0;
    const client = newClient(t, server, encoding, {
      getToken: async () => {
        asked += 1;
        if (asked === 3) give();
        return tokens[asked - 1];
      },
    });
    const states = [];
    client.on('state', ({ newState }) => states.push(newState));
    const connected = next(client, 'connected');
    client.connect();
    await connected;
    await within(askedTwice, 'the third token');
    assert.deepEqual(states, ['connecting', 'connected']);
  });

  test(`${encoding}: a token that nobody refreshes ends with 3005`, async (t) => {
    const server = await startServer(t, ['--client.expired_close_delay', '1s']);
    const client = newClient(t, server, encoding, {
      token: token({ sub: 'ann', exp: inSeconds(2) }), getToken: () => new Promise(() => {}),
    });
    const connected = next(client, 'connected');
    client.connect();
    await connected;
    const { code, reason } = await next(client, 'connecting');
    assert.deepEqual({ code, reason }, { code: 3005, reason: 'connection expired' });
  });

  test(`${encoding}: unknown namespace 102, no permission 103, and the client lives on`, async (t) => {
    const server = await startServer(t, [SUBSCRIBE]);
    const ann = await connect(t, server, encoding, 'ann');
    const wrong = ann.newSubscription('nowhere:x');
    const unsubscribed = next(wrong, 'unsubscribed');
    wrong.subscribe();
    assert.equal((await unsubscribed).code, 102);
    await assert.rejects(ann.publish('talk', pack(encoding, 1)), { code: 103 });
    await assert.rejects(ann.publish('nowhere:x', pack(encoding, 1)), { code: 102 });
    await assert.rejects(ann.history('talk', { limit: 1 }), { code: 108 });
    assert.equal(ann.state, 'connected');
    await subscribe(ann, 'talk');

    const closed = await startServer(t);
    const bob = await connect(t, closed, encoding, 'bob');
    const denied = bob.newSubscription('talk');
    const end = next(denied, 'unsubscribed');
    denied.subscribe();
    assert.equal((await end).code, 103);
    assert.equal(bob.state, 'connected');
  });
}

test('an anonymous client connects where it may, with its own permissions', async (t) => {
  const server = await startServer(t, [SUBSCRIBE, '--client.allow_anonymous_connect_without_token']);
  const nobody = newClient(t, server, 'json');
  const connected = next(nobody, 'connected');
  nobody.connect();
  await connected;
  const denied = nobody.newSubscription('talk');
  const end = next(denied, 'unsubscribed');
  denied.subscribe();
  assert.equal((await end).code, 103);

  const open = await startServer(t, [
    SUBSCRIBE, '--channel.without_namespace.allow_subscribe_for_anonymous',
    '--client.allow_anonymous_connect_without_token',
  ]);
  const guest = newClient(t, open, 'protobuf');
  const welcomed = next(guest, 'connected');
  guest.connect();
  await welcomed;
  await subscribe(guest, 'talk');
});

test('client.insecure needs no token and grants every channel', async (t) => {
  const server = await startServer(t, ['--client.insecure']);
  for (const encoding of ENCODINGS) {
    const client = newClient(t, server, encoding);
    const connected = next(client, 'connected');
    client.connect();
    await connected;
    const talk = await subscribe(client, `talk-${encoding}`);
    await talk.publish(pack(encoding, 'x'));
    assert.deepEqual(await talk.until('x'), ['x']);
  }
});
