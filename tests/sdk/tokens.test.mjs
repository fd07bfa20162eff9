// Proves with the official JavaScript SDK what tokens for one channel grant and for how long, and how
// they and the connection's own are refreshed.
import test, { describe } from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer, within } from './server.mjs';
import {
  OFFERED, WAYS, connect, inSeconds, inbox, later, newClient, newSubscription, next, nextError, refusal, subscribe,
  token, unpack,
} from './client.mjs';

const CHANNELS = namespaces({
  open: { allow_subscribe_for_client: true },
  kept: { allow_subscribe_for_client: true, history_size: 20, history_ttl: '60s', force_recovery: true },
  shut: { presence: true, allow_presence_for_subscriber: true },
});
const start = (t, more = []) => startServer(t, [
  ...OFFERED, ...CHANNELS, '--client.expired_sub_close_delay', '1s', '--client.expired_close_delay', '1s', ...more,
]);
const ofChannel = (channel, claims = {}, how = {}) => token({ sub: 'ann', channel, ...claims }, how);

// Most of their time they wait for tokens to expire: those of one way do so together.
for (const way of WAYS) describe(way, { concurrency: 8 }, () => {
  test(`${way}: a subscription's token is asked for, and lets in whom the channel would not`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const asked = [];
    const getToken = async ({ channel }) => {
      asked.push(channel);
      return ofChannel(channel, { exp: inSeconds(600), data: { hello: 'ü' } });
    };
    for (const channel of ['shut:a', '$open:a', '$private']) {
      const sub = await subscribe(ann, channel, { getToken });
      assert.deepEqual(unpack(sub.began.data), { hello: 'ü' });
      await server.api('publish', { channel, data: 'end' });
      assert.deepEqual(await sub.until('end'), ['end']);
    }
    assert.deepEqual(asked, ['shut:a', '$open:a', '$private']);
    for (const channel of ['shut:b', '$open:b']) {
      assert.deepEqual(await refusal(newSubscription(ann, channel)), { code: 103, reason: 'permission denied' });
    }
    const without = newSubscription(ann, 'shut:c', { getToken: async () => '' });
    assert.equal((await refusal(without)).code, 1, 'no token is how an app says: not authorized');
  });

  test(`${way}: a bad token is refused with 103, a good one for something else ends with 3500`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const bad = [ofChannel('open:a', {}, { secret: 'not the key' }), 'abc', `${ofChannel('open:a')}x`];
    for (const [at, value] of bad.entries()) {
      assert.equal((await refusal(newSubscription(ann, `open:${at}`, { token: value }))).code, 103, value);
    }
    assert.equal(ann.state, 'connected');
    const others = [
      ofChannel('open:b'), token({ sub: 'bob', channel: 'open:a' }), ofChannel('open:a', { client: 'another' }),
      token({ sub: 'ann' }),
    ];
    for (const value of others) {
      const client = await connect(t, server, way, 'ann');
      const disconnected = next(client, 'disconnected');
      client.newSubscription('open:a', { token: value }).subscribe();
      const { code, reason } = await disconnected;
      assert.deepEqual({ code, reason }, { code: 3500, reason: 'invalid token' });
    }
    await subscribe(ann, 'open:a', { token: ofChannel('open:a', { client: ann.id }) });
  });

  test(`${way}: an expired token of a subscription is answered 109 and a new one asked for`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    let asked = 0;
    const sub = newSubscription(ann, 'shut:d', {
      token: ofChannel('shut:d', { exp: inSeconds(-60) }),
      getToken: async () => { asked += 1; return ofChannel('shut:d'); },
    });
    const [expired, subscribed] = [nextError(sub, 109), next(sub, 'subscribed')];
    sub.subscribe();
    await expired;
    await subscribed;
    assert.equal(asked, 1);
  });

  test(`${way}: an expiring subscription is refreshed and goes on`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const third = later();
    const tokens = [2, 4, 600].map((n) => ofChannel('shut:e', { exp: inSeconds(n) }));
    let asked = 0;
    const sub = await subscribe(ann, 'shut:e', {
      getToken: async () => {
        asked += 1;
        if (asked === 3) third.resolve();
        return tokens[asked - 1];
      },
    });
    const states = inbox(sub, 'state');
    await within(third.promise, 'the third token');
    await server.api('publish', { channel: 'shut:e', data: 'end' });
    assert.deepEqual(await sub.until('end'), ['end']);
    assert.deepEqual([...states], []);
  });

  test(`${way}: a subscription that nobody refreshes ends with 2501, and is subscribed anew`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    let first = ofChannel('shut:f', { exp: inSeconds(2) });
    const sub = await subscribe(ann, 'shut:f', {
      getToken: ({ channel }) => {
        // A refresh is left without an answer.
        if (ann.getSubscription(channel).state === 'subscribed') return new Promise(() => {});
        const value = first ?? ofChannel(channel);
        first = null;
        return Promise.resolve(value);
      },
    });
    const [subscribing, subscribed] = [next(sub, 'subscribing'), next(sub, 'subscribed')];
    const { code, reason } = await subscribing;
    assert.deepEqual({ code, reason }, { code: 2501, reason: 'subscription expired' });
    await subscribed;
    assert.equal(ann.state, 'connected');
  });

  test(`${way}: a refresh for another channel ends with 3500, an expired one ends the subscription`, async (t) => {
    const server = await start(t);
    const refreshed = async (value) => {
      const client = await connect(t, server, way, 'ann');
      const tokens = [ofChannel('shut:g', { exp: inSeconds(2) }), value];
      const sub = await subscribe(client, 'shut:g', { getToken: async () => tokens.shift() ?? new Promise(() => {}) });
      return { client, sub };
    };
    const other = await refreshed(ofChannel('shut:other'));
    assert.equal((await next(other.client, 'disconnected')).code, 3500);
    const old = await refreshed(ofChannel('shut:g', { exp: inSeconds(-60) }));
    assert.equal((await next(old.sub, 'unsubscribed')).code, 110);
    assert.equal(old.client.state, 'connected');
  });

  test(`${way}: a refresh of the connection for another user ends with 3500, an expired one with 3005`, async (t) => {
    const server = await start(t);
    for (const [value, event, code] of [
      [token({ sub: 'bob', exp: inSeconds(600) }), 'disconnected', 3500],
      [token({ sub: 'ann', exp: inSeconds(600) }, { secret: 'not the key' }), 'disconnected', 3500],
      [token({ sub: 'ann', exp: inSeconds(-60) }), 'connecting', 3005],
    ]) {
      const tokens = [token({ sub: 'ann', exp: inSeconds(2) }), value, token({ sub: 'ann' })];
      const client = newClient(t, server, way, { getToken: async () => tokens.shift() });
      const connected = next(client, 'connected');
      client.connect();
      await connected;
      assert.equal((await next(client, event)).code, code);
    }
  });

  test(`${way}: a refresh with other channels of the server's begins the connection anew, with 3010`, async (t) => {
    const server = await start(t);
    const claims = (channels, seconds) => token({ sub: 'ann', channels, exp: inSeconds(seconds) });
    const tokens = [claims(['a', 'b'], 2), claims(['b', 'a'], 4), claims(['a', 'c'], 600)];
    const client = newClient(t, server, way, { getToken: async () => tokens.shift() });
    const subscribed = inbox(client, 'subscribed', ({ channel }) => channel);
    const unsubscribed = inbox(client, 'unsubscribed', ({ channel }) => channel);
    const connected = next(client, 'connected');
    client.connect();
    await connected;
    assert.equal((await next(client, 'connecting')).code, 3010);
    assert.equal(tokens.length, 0, 'the same channels in another order are no reason');
    assert.deepEqual((await subscribed.first(4)).slice(2).sort(), ['a', 'c']);
    assert.deepEqual(await unsubscribed.first(1), ['b']);
  });

  test(`${way}: subscription tokens may have a key of their own`, async (t) => {
    const secret = 'another secret of more than thirty-two bytes';
    const server = await start(t, [
      '--client.subscription_token.enabled', '--client.subscription_token.hmac_secret_key', secret]);
    const ann = await connect(t, server, way, 'ann');
    await subscribe(ann, 'shut:h', { token: ofChannel('shut:h', {}, { secret }) });
    assert.equal((await refusal(newSubscription(ann, 'shut:i', { token: ofChannel('shut:i') }))).code, 103);
  });

  test(`${way}: a token overrides what its channel does`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const value = (on) => ({ value: on });
    const override = { force_recovery: value(false), presence: value(false) };
    const sub = await subscribe(ann, 'kept:o', { token: ofChannel('kept:o', { override }) });
    assert.deepEqual([sub.began.recoverable, sub.began.positioned], [false, false]);
    const hidden = await subscribe(ann, 'shut:o', { token: ofChannel('shut:o', { override }) });
    assert.equal((await hidden.presenceStats()).numClients, 0);
    const loud = { join_leave: value(true), force_push_join_leave: value(true) };
    const heard = newSubscription(ann, 'open:o', { token: ofChannel('open:o', { override: loud }) });
    const joins = inbox(heard, 'join', ({ info }) => info.user);
    heard.subscribe();
    assert.deepEqual(await joins.first(1), ['ann']);
  });
});
