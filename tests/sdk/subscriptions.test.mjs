// Proves with the official JavaScript SDK who may hear a channel: subscriptions that the server makes,
// limits of users, channels for some of them, and what there is not.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer, within } from './server.mjs';
import {
  ENCODINGS, OFFERED, WAYS, connect, inbox, newClient, newSubscription, next, pack, refusal, subscribe, together, token,
  unpack,
} from './client.mjs';
import { openRelay } from './relay.mjs';

const KEPT = { history_size: 20, history_ttl: '60s', force_recovery: true };
const CHANNELS = namespaces({
  open: { allow_subscribe_for_client: true, allow_publish_for_subscriber: true },
  kept: { ...KEPT, allow_subscribe_for_client: true },
  shut: { presence: true, allow_presence_for_subscriber: true, allow_publish_for_subscriber: true },
  told: { presence: true, join_leave: true, force_push_join_leave: true },
  some: { allow_user_limited_channels: true, allow_publish_for_subscriber: true },
  shaped: { allow_subscribe_for_client: true, channel_regex: '^[a-z]+-[0-9]+$' },
  own: { ...KEPT },
});
const start = (t, more = [], how = {}) => startServer(t, [...OFFERED, ...CHANNELS, ...more], how);
const PERSONAL = ['--client.subscribe_to_user_personal_channel.enabled'];

/** What a client's server-side subscriptions do, by channel, from before it connects. */
function serverSide(client) {
  return {
    subscribed: inbox(client, 'subscribed'),
    unsubscribed: inbox(client, 'unsubscribed', ({ channel }) => channel),
    heard: inbox(client, 'publication', ({ channel, data }) => [channel, unpack(data)]),
    joins: inbox(client, 'join', ({ channel, info }) => [channel, info.user]),
    leaves: inbox(client, 'leave', ({ channel, info }) => [channel, info.user]),
  };
}

/** A connected client with what its server-side subscriptions did. */
async function attach(t, server, way, claims, options = {}) {
  const client = newClient(t, server, way, { token: token(claims), ...options });
  client.on('connected', (ctx) => { client.id = ctx.client; });
  const events = serverSide(client);
  const connected = next(client, 'connected');
  client.connect();
  await connected;
  return { client, ...events };
}

/** Connects; how the server ended it. */
async function ended(t, server, way, options) {
  const client = newClient(t, server, way, options);
  const disconnected = next(client, 'disconnected');
  client.connect();
  const { code, reason } = await disconnected;
  return { code, reason };
}

for (const way of WAYS) {
  test(`${way}: the channels of a token are subscribed as the client connects`, async (t) => {
    const server = await start(t, [], { reactors: 3 });
    const subs = {
      'own:b': { data: { hello: 'ü' }, info: { seat: 4 } }, 'told:b': { info: { seat: 5 } }, news: {}, 'shut:a': null,
    };
    // Beside `subs`, `channels` counts for nothing.
    const ann = await attach(t, server, way, { sub: 'ann', channels: ['ignored'], subs });
    const began = Object.fromEntries((await ann.subscribed.first(4)).map((ctx) => [ctx.channel, ctx]));
    assert.deepEqual(Object.keys(began).sort(), ['news', 'own:b', 'shut:a', 'told:b']);
    assert.deepEqual([began.news.recoverable, began.news.data?.length ?? 0], [false, 0]);
    assert.deepEqual([began['own:b'].recoverable, began['own:b'].positioned, began['own:b'].streamPosition.offset,
      unpack(began['own:b'].data)], [true, true, 0, { hello: 'ü' }]);
    assert.deepEqual(await ann.joins.first(1), [['told:b', 'ann']]);

    await server.api('broadcast', { channels: ['news', 'shut:a', 'own:b', 'elsewhere'], data: 'x' });
    await server.api('publish', { channel: 'news', data: 'end' });
    // Channels have no order among each other: the end of one may come before the others' first.
    const heard = await ann.heard.first(4);
    assert.deepEqual(heard.filter(([channel]) => channel === 'news').map(([, data]) => data), ['x', 'end']);
    assert.deepEqual(heard.map(([channel]) => channel).sort(), ['news', 'news', 'own:b', 'shut:a']);
    const { clients } = await ann.client.presence('shut:a');
    assert.deepEqual(Object.keys(clients), [ann.client.id]);
    await ann.client.publish('shut:a', pack(way, 'mine'));
    await ann.heard.until((all) => all.at(-1)[1] === 'mine');

    const again = newSubscription(ann.client, 'news');
    assert.equal((await refusal(again)).code, 105, 'it is subscribed already');
  });

  test(`${way}: the backend ends one of them, or all`, async (t) => {
    const server = await start(t);
    const ann = await attach(t, server, way, { sub: 'ann', channels: ['a', 'b', 'c'] });
    await server.api('unsubscribe', { user: 'ann', channel: 'b' });
    assert.deepEqual(await ann.unsubscribed.first(1), ['b']);
    await server.api('broadcast', { channels: ['a', 'b', 'c'], data: 1 });
    assert.deepEqual((await ann.heard.first(2)).map(([channel]) => channel).sort(), ['a', 'c']);
    await server.api('unsubscribe', { user: 'ann', channel: '' });
    assert.deepEqual((await ann.unsubscribed.first(3)).sort(), ['a', 'b', 'c']);
    await server.hasChannels({});
    assert.equal(ann.client.state, 'connected');
  });

  test(`${way}: they recover what was missed, as others do`, async (t) => {
    const server = await start(t, PERSONAL);
    const relay = await openRelay(t, server);
    const ann = await attach(t, relay, way, { sub: 'ann', channels: ['own:a', 'news'] });
    await server.api('publish', { channel: 'own:a', data: 1 });
    await ann.heard.first(1);
    relay.hold();
    for (const data of [2, 3, 4]) await server.api('publish', { channel: 'own:a', data });
    await server.api('publish', { channel: 'news', data: 'missed' });
    relay.resume();
    const back = (await ann.subscribed.first(6)).slice(3).find(({ channel }) => channel === 'own:a');
    assert.deepEqual([back.wasRecovering, back.recovered, back.hasRecoveredPublications], [true, true, true]);
    await server.api('publish', { channel: 'own:a', data: 5 });
    assert.deepEqual(await ann.heard.first(5), [1, 2, 3, 4, 5].map((data) => ['own:a', data]));

    relay.hold();
    for (let data = 6; data < 30; data += 1) await server.api('publish', { channel: 'own:a', data });
    relay.resume();
    const lost = (await ann.subscribed.first(9)).slice(6).find(({ channel }) => channel === 'own:a');
    assert.deepEqual([lost.wasRecovering, lost.recovered, lost.streamPosition.offset], [true, false, 29]);
    assert.deepEqual([...ann.unsubscribed], []);
  });

  test(`${way}: a user has a channel of its own`, async (t) => {
    const namespaced = ['--client.subscribe_to_user_personal_channel.personal_channel_namespace', 'own'];
    for (const [options, channel] of [[[], '#ann'], [namespaced, 'own:#ann']]) {
      const server = await start(t, [...PERSONAL, ...options, '--client.allow_anonymous_connect_without_token']);
      const [one, two] = [await attach(t, server, way, { sub: 'ann' }), await attach(t, server, way, { sub: 'ann' })];
      const bob = await attach(t, server, way, { sub: 'bob' });
      await one.subscribed.first(1);
      assert.equal(one.subscribed[0].channel, channel);
      const nobody = newClient(t, server, way);
      const none = serverSide(nobody);
      const connected = next(nobody, 'connected');
      nobody.connect();
      await connected;
      await server.api('publish', { channel, data: 'for ann' });
      assert.deepEqual(await one.heard.first(1), [[channel, 'for ann']]);
      assert.deepEqual(await two.heard.first(1), [[channel, 'for ann']]);
      await server.api('publish', { channel: channel.replace('ann', 'bob'), data: 'for bob' });
      await bob.heard.first(1);
      assert.deepEqual([bob.heard.length, none.subscribed.length], [1, 0]);
    }
  });

  test(`${way}: with single_connection the latest connection of a user is the one that stays`, async (t) => {
    const server = await start(t, [...PERSONAL, '--client.subscribe_to_user_personal_channel.single_connection']);
    const first = await connect(t, server, way, 'ann');
    const gone = next(first, 'disconnected');
    const second = await connect(t, server, way, 'ann');
    assert.deepEqual({ ...await gone }, { code: 3504, reason: 'connection limit' });
    const bob = await connect(t, server, way, 'bob');
    assert.deepEqual([second.state, bob.state], ['connected', 'connected']);
    assert.equal((await server.api('info')).nodes[0].num_clients, 2);
  });

  test(`${way}: a user over client.user_connection_limit is refused with 3504`, async (t) => {
    const server = await start(t, ['--client.user_connection_limit', '2'], { reactors: 3 });
    const clients = [await connect(t, server, way, 'ann'), await connect(t, server, way, 'ann')];
    const refused = await ended(t, server, way, { token: token({ sub: 'ann' }) });
    assert.deepEqual(refused, { code: 3504, reason: 'connection limit' });
    await connect(t, server, way, 'bob');
    clients[0].disconnect();
    await within((async () => {
      while ((await server.api('info')).nodes[0].num_clients > 2);
    })(), 'that the client is gone');
    await connect(t, server, way, 'ann');
    assert.equal((await server.api('info')).nodes[0].num_clients, 3);
  });

  test(`${way}: tokens whose channels cannot be had end the connection`, async (t) => {
    const server = await start(t, ['--client.channel_limit', '2']);
    const many = await ended(t, server, way, { token: token({ sub: 'ann', channels: ['a', 'b', 'c'] }) });
    assert.deepEqual(many, { code: 3505, reason: 'channel limit' });
    const unknown = await ended(t, server, way, { token: token({ sub: 'ann', channels: ['nowhere:a'] }) });
    assert.equal(unknown.code, 102);
  });

  test(`${way}: channels for some users, by their names`, async (t) => {
    const server = await start(t);
    const [ann, bob] = [await connect(t, server, way, 'ann'), await connect(t, server, way, 'bob')];
    const hers = await subscribe(ann, 'some:talk#ann,eve');
    await hers.publish(pack(way, 'x'));
    await hers.until('x');
    assert.equal((await refusal(newSubscription(bob, 'some:talk#ann,eve'))).code, 103);
    assert.equal((await refusal(newSubscription(ann, 'some:talk'))).code, 103);
    assert.equal((await refusal(newSubscription(bob, 'shut:talk#bob'))).code, 103, 'not allowed there');
    await subscribe(bob, 'some:own#bob');
  });

  test(`${way}: names that do not fit are refused with 107`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    await subscribe(ann, 'shaped:game-42');
    for (const name of ['shaped:game', 'shaped:42', 'open:ü', `open:${'x'.repeat(256)}`]) {
      assert.equal((await refusal(newSubscription(ann, name))).code, 107, name);
    }
  });

  test(`${way}: map and shared poll subscriptions are refused with 103`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const subs = [
      ann.newMapSubscription('open:m1'), ann.newMapClientsSubscription('open:m2'),
      ann.newMapUsersSubscription('open:m3'), ann.newSharedPollSubscription('open:m4'),
    ];
    for (const sub of subs) assert.deepEqual(await refusal(sub), { code: 103, reason: 'permission denied' });
    await assert.rejects(ann.mapPublish('open:m1', 'key', pack(way, 1)), { code: 103 });
    assert.equal(ann.state, 'connected');
  });

  test(`${way}: rpc is not available without a backend, and send ends with 3508`, async (t) => {
    const server = await start(t);
    const early = newClient(t, server, way, { token: token({ sub: 'ann' }) });
    const answer = assert.rejects(early.rpc('add', pack(way, 1)), { code: 108 });
    early.connect();
    await answer;
    const disconnected = next(early, 'disconnected');
    await early.send(pack(way, 1));
    assert.equal((await disconnected).code, 3508);
  });

  test(`${way}: codes of the backend's own choice end connections as their range says`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    // The end with 3000 is not told: the client finds its transport closed.
    const silent = [next(ann, 'connecting'), next(ann, 'connected')];
    await server.api('disconnect', { user: 'ann', disconnect: { code: 3000, reason: 'as said' } });
    assert.equal((await silent[0]).code, 1);
    await silent[1];
    for (const code of [3001, 3499, 4000, 4499]) {
      const [gone, back] = [next(ann, 'connecting'), next(ann, 'connected')];
      await server.api('disconnect', { user: 'ann', disconnect: { code, reason: 'as said' } });
      const ctx = await gone;
      assert.deepEqual([ctx.code, ctx.reason], [code, 'as said']);
      await back;
    }
    for (const code of [3500, 3999, 4500, 4999]) {
      const client = await connect(t, server, way, `user${code}`);
      const gone = next(client, 'disconnected');
      await server.api('disconnect', { user: `user${code}`, disconnect: { code, reason: 'as said' } });
      const ctx = await gone;
      assert.deepEqual([ctx.code, ctx.reason], [code, 'as said']);
    }
    for (const code of [999, 2999, 5000]) {
      await assert.rejects(server.api('disconnect', { user: 'ann', disconnect: { code } }), { code: 107 });
    }
    assert.equal(ann.state, 'connected');
  });

  test(`${way}: subscriptions made before the client connects begin with it, a hundred at once`, async (t) => {
    const server = await start(t, [], { reactors: 3 });
    const ann = newClient(t, server, way, { token: token({ sub: 'ann' }) });
    const subs = Array.from({ length: 100 }, (_, n) => newSubscription(ann, `open:n${n}`));
    for (const sub of subs) sub.subscribe();
    ann.connect();
    await Promise.all(subs.map((sub) => sub.ready(5000)));
    await together(ann, () => {
      for (const sub of subs.slice(0, 50)) sub.unsubscribe();
      return subs[99].publish(pack(way, 'end'));
    });
    await subs[99].until('end');
    const are = (list) => server.hasChannels(Object.fromEntries(list.map(({ channel }) => [channel, { num_clients: 1 }])));
    await are(subs.slice(50));
    const again = subs.slice(0, 50).map((sub) => next(sub, 'subscribed'));
    for (const sub of subs.slice(0, 50)) sub.subscribe();
    await Promise.all(again);
    await are(subs);
  });
}

for (const way of ENCODINGS) {
  // The SDK tells when its connect command left over WebSocket only.
  test(`${way}: a subscription given up while the client connects is not there`, async (t) => {
    const server = await start(t);
    const ann = newClient(t, server, way, { token: token({ sub: 'ann' }) });
    const [left, kept] = [newSubscription(ann, 'open:left'), newSubscription(ann, 'open:kept')];
    ann.on('__centrifuge_debug:connect_frame_sent', () => left.unsubscribe());
    left.subscribe();
    kept.subscribe();
    ann.connect();
    await kept.ready(5000);
    await kept.publish(pack(way, 'end'));
    await kept.until('end');
    await server.hasChannels({ 'open:kept': { num_clients: 1 } });
    const subscribed = next(left, 'subscribed');
    left.subscribe();
    await subscribed;
  });
}
