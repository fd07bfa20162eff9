// Proves with the official JavaScript SDK who is seen in a channel: presence and its counts, who comes
// and who goes, and that nobody is seen after leaving, however quick the client is.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer, within } from './server.mjs';
import {
  OFFERED, WAYS, connect, inbox, inSeconds, newSubscription, next, pack, subscribe, together, token, unpack,
} from './client.mjs';
import { openRelay } from './relay.mjs';

const OPEN = { allow_subscribe_for_client: true, allow_publish_for_subscriber: true };
const ROOMS = namespaces({
  room: { ...OPEN, presence: true, allow_presence_for_subscriber: true },
  hall: { ...OPEN, presence: true, allow_presence_for_client: true },
  closed: { ...OPEN, presence: true },
  off: { ...OPEN, allow_presence_for_client: true },
  told: { ...OPEN, join_leave: true, force_push_join_leave: true },
  asked: { ...OPEN, presence: true, join_leave: true, allow_presence_for_subscriber: true },
  busy: {
    ...OPEN, presence: true, join_leave: true, force_push_join_leave: true, allow_presence_for_client: true,
    history_size: 10, history_ttl: '60s', force_recovery: true,
  },
});
const start = (t, more = [], how = {}) => startServer(t, [...OFFERED, ...ROOMS, ...more], how);

/** Presence as plain values: infos decoded. */
const seen = ({ clients }) => Object.fromEntries(Object.entries(clients).map(([id, info]) =>
  [id, { client: info.client, user: info.user, conn: read(info.connInfo), chan: read(info.chanInfo) }]));
const read = (data) => (data === undefined || data === null || data.length === 0 ? undefined : unpack(data));

/** Who came ("+user") and went ("-user"), in order. */
function comings(sub) {
  const list = inbox(sub, 'join', ({ info }) => `+${info.user}`);
  sub.on('leave', ({ info }) => { list.push(`-${info.user}`); list.changed(); });
  return list;
}

/** A subscription that tells who comes and goes from here on: its own coming is over. */
async function watch(client, channel) {
  const sub = newSubscription(client, channel);
  const list = comings(sub);
  sub.subscribe();
  await list.first(1);
  list.length = 0;
  return { sub, list };
}

for (const way of WAYS) {
  test(`${way}: presence names who is there, and its counts add them up`, async (t) => {
    const server = await start(t, [], { reactors: 3 });
    const info = { name: 'Ann', colour: 'ü' };
    const withInfo = { token: token({ sub: 'ann', info }) };
    const [ann, again, bob] = await Promise.all([
      connect(t, server, way, 'ann', withInfo), connect(t, server, way, 'ann'), connect(t, server, way, 'bob')]);
    const chan = { seat: 4 };
    const room = await subscribe(ann, 'room:a', { token: token({ sub: 'ann', channel: 'room:a', info: chan }) });
    await subscribe(again, 'room:a');
    const his = await subscribe(bob, 'room:a');

    const there = {
      [ann.id]: { client: ann.id, user: 'ann', conn: info, chan },
      [again.id]: { client: again.id, user: 'ann', conn: undefined, chan: undefined },
      [bob.id]: { client: bob.id, user: 'bob', conn: undefined, chan: undefined },
    };
    assert.deepEqual(seen(await room.presence()), there);
    assert.deepEqual(seen(await his.presence()), there);
    assert.deepEqual(await his.presenceStats(), { numClients: 3, numUsers: 2 });

    delete there[ann.id];
    await together(ann, () => {
      room.unsubscribe();
      return assert.rejects(ann.presence('room:a'), { code: 103 });
    });
    assert.deepEqual(seen(await his.presence()), there);
    assert.deepEqual(await his.presenceStats(), { numClients: 2, numUsers: 2 });
  });

  test(`${way}: what a publisher publishes carries both infos`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann', { token: token({ sub: 'ann', info: { name: 'Ann' } }) });
    const room = await subscribe(ann, 'room:b', { token: token({ sub: 'ann', channel: 'room:b', info: { seat: 4 } }) });
    await room.publish(pack(way, 1));
    await room.until(1);
    const { info } = room.publications[0];
    assert.deepEqual([info.user, info.client, read(info.connInfo), read(info.chanInfo)],
      ['ann', ann.id, { name: 'Ann' }, { seat: 4 }]);
  });

  test(`${way}: presence that may not be seen is refused`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    for (const ask of ['presence', 'presenceStats']) {
      await assert.rejects(ann[ask]('room:c'), { code: 103 });
      await assert.rejects(ann[ask]('off:c'), { code: 108 });
      await assert.rejects(ann[ask]('nowhere:c'), { code: 102 });
    }
    const closed = await subscribe(ann, 'closed:c');
    await assert.rejects(closed.presence(), { code: 103 });
    assert.deepEqual([await ann.presence('hall:c'), await ann.presenceStats('hall:c')],
      [{ clients: {} }, { numClients: 0, numUsers: 0 }]);
  });

  test(`${way}: who leaves, is cut off or is sent away is seen no more`, async (t) => {
    const server = await start(t, [], { reactors: 2 });
    const relay = await openRelay(t, server);
    const ann = await connect(t, server, way, 'ann');
    const { sub: told, list } = await watch(ann, 'busy:d');
    const others = await Promise.all(['bob', 'cut', 'eve', 'out'].map((user) =>
      connect(t, user === 'cut' ? relay : server, way, user)));
    for (const other of others) await subscribe(other, 'busy:d');
    await list.first(4);
    assert.equal((await told.presenceStats()).numClients, 5);
    others[0].disconnect();
    await list.first(5);
    relay.hold();
    await list.first(6);
    await server.api('disconnect', { user: 'eve' });
    await list.first(7);
    await server.api('unsubscribe', { user: 'out', channel: 'busy:d' });
    assert.deepEqual(await list.first(8), ['+bob', '+cut', '+eve', '+out', '-bob', '-cut', '-eve', '-out']);
    assert.deepEqual(Object.keys((await told.presence()).clients), [ann.id]);
  });

  test(`${way}: after the reply to an unsubscribe the client is not present, each of a hundred times`, async (t) => {
    const server = await start(t, [], { reactors: 3 });
    const [ann, bob] = [await connect(t, server, way, 'ann'), await connect(t, server, way, 'bob')];
    for (let round = 0; round < 100; round += 1) {
      // Other channels, other owners.
      const channel = `hall:e${round % 7}`;
      const sub = ann.getSubscription(channel) ?? ann.newSubscription(channel);
      sub.subscribe();
      assert.equal((await sub.presenceStats()).numClients, 1);
      assert.deepEqual(Object.keys((await ann.presence(channel)).clients), [ann.id]);
      const stats = await together(ann, () => {
        sub.unsubscribe();
        return ann.presenceStats(channel);
      });
      assert.deepEqual(stats, { numClients: 0, numUsers: 0 }, `round ${round}`);
      assert.deepEqual(await bob.presence(channel), { clients: {} });
    }
  });

  test(`${way}: a subscriber hears itself come, then others come and go`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann', { token: token({ sub: 'ann', info: { name: 'Ann' } }) });
    const hers = ann.newSubscription('told:a');
    const joins = inbox(hers, 'join');
    const order = [];
    hers.on('subscribed', () => order.push('subscribed'));
    hers.on('join', () => order.push('join'));
    hers.subscribe();
    const [{ channel, info }] = await joins.first(1);
    assert.deepEqual([channel, info.user, info.client, read(info.connInfo)],
      ['told:a', 'ann', ann.id, { name: 'Ann' }]);
    assert.deepEqual(order, ['subscribed', 'join']);

    const list = comings(hers);
    const bob = await connect(t, server, way, 'bob');
    const his = bob.newSubscription('told:a');
    const own = inbox(his, 'join');
    his.subscribe();
    assert.equal((await own.first(1))[0].info.client, bob.id);
    const left = next(hers, 'leave');
    his.unsubscribe();
    assert.deepEqual([(await left).info.client, (await left).channel], [bob.id, 'told:a']);
    assert.deepEqual(await list.first(2), ['+bob', '-bob']);
    assert.equal(joins.length, 2);
    assert.equal(own.length, 1);
  });

  test(`${way}: comings and goings are told to who asks and may see presence`, async (t) => {
    const server = await start(t);
    const [ann, bob, eve] = [await connect(t, server, way, 'ann'), await connect(t, server, way, 'bob'),
      await connect(t, server, way, 'eve')];
    const asks = ann.newSubscription('asked:a', { joinLeave: true });
    const list = comings(asks);
    asks.subscribe();
    await list.first(1);
    const silent = await subscribe(bob, 'asked:a');
    const heard = comings(silent);
    const his = await subscribe(eve, 'asked:a');
    his.unsubscribe();
    assert.deepEqual(await list.first(4), ['+ann', '+bob', '+eve', '-eve']);
    await asks.publish(pack(way, 'end'));
    await silent.until('end');
    assert.deepEqual([...heard], []);

    const room = ann.newSubscription('room:f', { joinLeave: true });
    const none = comings(room);
    room.subscribe();
    await room.ready(5000);
    await subscribe(bob, 'room:f');
    await subscribe(eve, 'room:f');
    assert.equal((await room.presenceStats()).numClients, 3);
    assert.deepEqual([...none], [], 'the channel tells nobody');
  });

  test(`${way}: quick unsubscribe and subscribe never meets 105, and each coming has its going`, async (t) => {
    const server = await start(t, [], { reactors: 3 });
    const watcher = await connect(t, server, way, 'watcher');
    const ann = await connect(t, server, way, 'ann');
    for (const [name, options] of [
      ['busy:g', {}], ['room:g', {}], ['busy:h', { getToken: async ({ channel }) => token({ sub: 'ann', channel }) }],
    ]) {
      const busy = name.startsWith('busy');
      const { sub: watched, list } = busy
        ? await watch(watcher, name) : { sub: await subscribe(watcher, name), list: [] };
      const sub = await subscribe(ann, name, { ...options, minResubscribeDelay: 1, maxResubscribeDelay: 5 });
      const errors = inbox(sub, 'error', ({ error }) => error.code);
      const ends = inbox(sub, 'unsubscribed', ({ code }) => code);
      for (let round = 0; round < 60; round += 1) {
        sub.unsubscribe();
        sub.subscribe();
        if (round % 3 === 0) await sub.ready(5000);
        if (round % 10 === 0) await sub.publish(pack(way, round));
      }
      await sub.ready(5000);
      await sub.publish(pack(way, 'end'));
      await sub.until('end');
      await watched.until('end');
      assert.deepEqual([...errors], []);
      assert.ok(ends.every((code) => code === 0));
      assert.equal(new Set(sub.heard).size, sub.heard.length, 'nothing is heard twice');
      for (const [at, what] of list.entries()) assert.equal(what, at % 2 === 0 ? '+ann' : '-ann');
      assert.equal(list.length % 2, busy ? 1 : 0);
      const { channels } = await server.api('channels', { pattern: name });
      assert.equal(channels[name].num_clients, 2);
      if (busy) assert.equal((await ann.presenceStats(name)).numClients, 2);
    }
  });

  test(`${way}: connecting and disconnecting in a loop leaves nobody behind`, async (t) => {
    const server = await start(t);
    const watcher = await connect(t, server, way, 'watcher');
    const { list } = await watch(watcher, 'busy:i');
    const ann = await connect(t, server, way, 'ann', { token: token({ sub: 'ann', exp: inSeconds(600) }) });
    const sub = await subscribe(ann, 'busy:i');
    for (let round = 0; round < 10; round += 1) {
      ann.disconnect();
      ann.connect();
      if (round % 2 === 0) await sub.ready(5000);
    }
    await sub.ready(5000);
    ann.disconnect();
    // A connection that was given up may be served after later ones: but then it ends.
    await within((async () => {
      while ((await watcher.presenceStats('busy:i')).numClients > 1);
    })(), 'that nobody but the watcher is there');
    const times = (all, what) => all.filter((coming) => coming === what).length;
    await list.until((all) => times(all, '+ann') === times(all, '-ann'));
    assert.ok(list.length >= 2);
  });
}
