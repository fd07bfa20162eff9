// Proves with the official JavaScript SDK what a channel's stream is for: history as it is asked for,
// recovery after lost connections and lost publications, the latest value, and state of the app's own.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer } from './server.mjs';
import {
  OFFERED, WAYS, connect, inbox, newSubscription, next, nextError, pack, subscribe, unpack,
} from './client.mjs';
import { openRelay } from './relay.mjs';

const KEPT = { allow_subscribe_for_client: true, history_size: 100, history_ttl: '60s' };
const STREAMS = namespaces({
  log: { ...KEPT, history_size: 10, allow_history_for_subscriber: true, allow_publish_for_subscriber: true },
  closed: KEPT,
  plain: { allow_subscribe_for_client: true, allow_history_for_client: true },
  safe: { ...KEPT, force_recovery: true, allow_publish_for_subscriber: true },
  short: { ...KEPT, history_size: 3, force_recovery: true },
  asked: { ...KEPT, allow_recovery: true, allow_positioning: true },
  placed: { ...KEPT, force_positioning: true },
  latest: { ...KEPT, force_recovery: true, force_recovery_mode: 'cache' },
  instant: { ...KEPT, force_recovery: true, force_recovery_mode: 'cache', auto_cache_recover: true },
  state: { ...KEPT, history_size: 5, allow_recovery: true, allow_history_for_client: true },
});
const start = (t, more = [], how = {}) => startServer(t, [...OFFERED, ...STREAMS, ...more], how);
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, n) => from + n);

/** Publishes numbers by the server API, one after another. */
async function tell(server, channel, from, to) {
  for (let n = from; n <= to; n += 1) await server.api('publish', { channel, data: n });
}

/** A client behind a relay, with a subscription that has heard 1 to 3. */
async function cuttable(t, server, way, channel, options = {}) {
  const relay = await openRelay(t, server);
  const client = await connect(t, relay, way, 'ann');
  const sub = await subscribe(client, channel, options);
  await tell(server, channel, 1, 3);
  await sub.until(3);
  return { relay, client, sub };
}

/** Lets a held client back; how it was subscribed again. */
async function letBack(relay, sub) {
  const again = next(sub, 'subscribed');
  relay.resume();
  return again;
}

for (const way of WAYS) {
  test(`${way}: history by limit, from a position, and newest first`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const log = await subscribe(ann, 'log:a');
    const empty = await log.history({ limit: -1 });
    assert.deepEqual([empty.publications, empty.offset], [[], 0]);
    await log.publish(pack(way, 1));
    await server.api('publish', { channel: 'log:a', data: 2, tags: { lang: 'de' } });
    await tell(server, 'log:a', 3, 10);

    const { epoch } = empty;
    assert.notEqual(epoch, '');
    const ask = async (options) => {
      const result = await log.history(options);
      assert.deepEqual([result.epoch, result.offset], [epoch, 10], 'the position is that of the channel');
      const offsets = result.publications.map((pub) => pub.offset);
      assert.deepEqual(offsets, result.publications.map((pub) => unpack(pub.data)));
      return offsets;
    };
    assert.deepEqual(await ask(), [], 'without a limit only the position');
    assert.deepEqual(await ask({ limit: 0 }), []);
    assert.deepEqual(await ask({ limit: -1 }), range(1, 10));
    assert.deepEqual(await ask({ limit: 3 }), [1, 2, 3]);
    assert.deepEqual(await ask({ limit: 3, since: { offset: 4, epoch } }), [5, 6, 7]);
    assert.deepEqual(await ask({ limit: 30, since: { offset: 8, epoch } }), [9, 10]);
    assert.deepEqual(await ask({ limit: 30, since: { offset: 10, epoch } }), []);
    assert.deepEqual(await ask({ limit: -1, since: { offset: 0, epoch } }), range(1, 10));
    assert.deepEqual(await ask({ limit: 3, reverse: true }), [10, 9, 8]);
    assert.deepEqual(await ask({ limit: 10, reverse: true, since: { offset: 4, epoch } }), [3, 2, 1]);

    const { publications: [mine, tagged] } = await ann.history('log:a', { limit: 2 });
    assert.deepEqual([mine.info.user, mine.info.client], ['ann', ann.id]);
    assert.equal(tagged.info, undefined);
    assert.deepEqual({ ...tagged.tags }, { lang: 'de' });

    await tell(server, 'log:a', 11, 14);
    const { publications: kept } = await log.history({ limit: -1 });
    assert.deepEqual(kept.map((pub) => pub.offset), range(5, 14), 'as many as history_size');
  });

  test(`${way}: history that cannot be given is answered with an error`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    await assert.rejects(ann.history('log:b', { limit: 1 }), { code: 103 });
    await assert.rejects(ann.history('nowhere:b', { limit: 1 }), { code: 102 });
    await assert.rejects(ann.history('plain:b', { limit: 1 }), { code: 108 });
    const closed = await subscribe(ann, 'closed:b');
    await assert.rejects(closed.history({ limit: 1 }), { code: 103 });
    const log = await subscribe(ann, 'log:b');
    await assert.rejects(log.history({ limit: 1, since: { offset: 1, epoch: 'of another life' } }), { code: 112 });
    await assert.rejects(log.history({ limit: 1, reverse: true, since: { offset: 0, epoch: '' } }), { code: 107 });
    assert.equal(ann.state, 'connected');
  });

  test(`${way}: history is capped by client.history_max_publication_limit`, async (t) => {
    const server = await start(t, ['--client.history_max_publication_limit', '4']);
    const ann = await connect(t, server, way, 'ann');
    const log = await subscribe(ann, 'log:c');
    await tell(server, 'log:c', 1, 8);
    for (const limit of [-1, 6]) {
      const { publications, offset } = await log.history({ limit });
      assert.deepEqual([publications.length, offset], [4, 8]);
    }
  });

  test(`${way}: what was published while the connection was lost comes after it, once`, async (t) => {
    const server = await start(t);
    const { relay, sub } = await cuttable(t, server, way, 'safe:a');
    assert.deepEqual([sub.began.recoverable, sub.began.positioned, sub.began.wasRecovering], [true, true, false]);
    assert.equal(sub.began.streamPosition.offset, 0);
    const { epoch } = sub.began.streamPosition;

    relay.hold();
    await tell(server, 'safe:a', 4, 8);
    const back = await letBack(relay, sub);
    assert.deepEqual([back.wasRecovering, back.recovered, back.hasRecoveredPublications], [true, true, true]);
    assert.equal(back.streamPosition.epoch, epoch);
    await tell(server, 'safe:a', 9, 9);
    assert.deepEqual(await sub.until(9), range(1, 9));
    assert.deepEqual(sub.publications.map((pub) => pub.offset), range(1, 9));

    relay.hold();
    const none = await letBack(relay, sub);
    assert.deepEqual([none.wasRecovering, none.recovered, none.hasRecoveredPublications], [true, true, false]);
    await tell(server, 'safe:a', 10, 10);
    assert.deepEqual(await sub.until(10), range(1, 10));
  });

  test(`${way}: a server that cuts the connection loses nothing either`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'safe:b');
    const began = inbox(sub, 'subscribed');
    for (let round = 0; round < 5; round += 1) {
      await tell(server, 'safe:b', 4 * round + 1, 4 * round + 2);
      const again = began.first(began.length + 1);
      await server.api('disconnect', { user: 'ann', disconnect: { code: 3011, reason: 'force reconnect' } });
      await tell(server, 'safe:b', 4 * round + 3, 4 * round + 4);
      assert.equal((await again).at(-1).recovered, true);
    }
    assert.deepEqual(await sub.until(20), range(1, 20));
  });

  test(`${way}: nothing is lost or doubled while the connection is cut again and again`, async (t) => {
    const server = await start(t, ['--client.recovery_max_publication_limit', '1000'], { reactors: 3 });
    const relay = await openRelay(t, server);
    const ann = await connect(t, relay, way, 'ann', { minReconnectDelay: 1, maxReconnectDelay: 20 });
    const subs = await Promise.all(range(1, 4).map((n) =>
      subscribe(ann, `safe:c${n}`, { minResubscribeDelay: 1, maxResubscribeDelay: 20 })));
    const began = subs.map((sub) => inbox(sub, 'subscribed'));
    // The client comes back while more is published; never more than is kept.
    for (let n = 1; n <= 90; n += 1) {
      await server.api('broadcast', { channels: subs.map((sub) => sub.channel), data: n });
      if (n % 15 === 0) relay.cut();
      if (n % 15 === 10 && n > 15) await Promise.all(began.map((list) => list.first(Math.floor(n / 15))));
    }
    for (const [at, sub] of subs.entries()) {
      assert.deepEqual(await sub.until(90), range(1, 90));
      assert.ok(began[at].every((ctx) => ctx.recovered), 'recovered every time');
    }
  });

  test(`${way}: what the stream no longer has is told as not recovered`, async (t) => {
    const server = await start(t);
    const { relay, sub } = await cuttable(t, server, way, 'short:a');
    relay.hold();
    await tell(server, 'short:a', 4, 8);
    const back = await letBack(relay, sub);
    assert.deepEqual([back.wasRecovering, back.recovered, back.hasRecoveredPublications], [true, false, false]);
    assert.equal(back.streamPosition.offset, 8);
    await tell(server, 'short:a', 9, 9);
    assert.deepEqual(await sub.until(9), [1, 2, 3, 9]);
    // From where it stands now it recovers again: all of what is kept is not too much.
    relay.hold();
    await tell(server, 'short:a', 10, 12);
    assert.equal((await letBack(relay, sub)).recovered, true);
    assert.deepEqual(await sub.until(12), [1, 2, 3, 9, 10, 11, 12]);
  });

  test(`${way}: more than client.recovery_max_publication_limit is not recovered`, async (t) => {
    const server = await start(t, ['--client.recovery_max_publication_limit', '4']);
    const { relay, sub } = await cuttable(t, server, way, 'safe:d');
    relay.hold();
    await tell(server, 'safe:d', 4, 7);
    assert.equal((await letBack(relay, sub)).recovered, true);
    await sub.until(7);
    relay.hold();
    await tell(server, 'safe:d', 8, 12);
    const back = await letBack(relay, sub);
    assert.deepEqual([back.recovered, back.streamPosition.offset], [false, 12]);
  });

  test(`${way}: a server that starts anew has streams of another epoch`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'safe:e');
    await tell(server, 'safe:e', 1, 3);
    await sub.until(3);
    await server.stop('SIGKILL');
    const again = next(sub, 'subscribed');
    const successor = await start(t, [], { port: server.port });
    const back = await again;
    assert.deepEqual([back.wasRecovering, back.recovered, back.streamPosition.offset], [true, false, 0]);
    assert.notEqual(back.streamPosition.epoch, sub.began.streamPosition.epoch);
    await tell(successor, 'safe:e', 4, 4);
    assert.deepEqual(await sub.until(4), [1, 2, 3, 4]);
  });

  test(`${way}: a first subscription begins where the app says`, async (t) => {
    const server = await start(t);
    await tell(server, 'safe:f', 1, 6);
    const ann = await connect(t, server, way, 'ann');
    const all = await subscribe(ann, 'safe:f', { since: { offset: 0, epoch: '' } });
    assert.deepEqual(await all.until(6), range(1, 6));
    const { epoch } = all.began.streamPosition;
    const bob = await connect(t, server, way, 'bob');
    const some = await subscribe(bob, 'safe:f', { since: { offset: 4, epoch } });
    assert.deepEqual([some.began.recovered, await some.until(6)], [true, [5, 6]]);
    const eve = await connect(t, server, way, 'eve');
    const lost = await subscribe(eve, 'safe:f', { since: { offset: 4, epoch: 'of another life' } });
    assert.deepEqual([lost.began.wasRecovering, lost.began.recovered], [true, false]);
    await tell(server, 'safe:f', 7, 7);
    assert.deepEqual(await lost.until(7), [7]);
  });

  test(`${way}: recovery and positions are given to who may ask for them`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const terms = ({ began }) => [began.recoverable, began.positioned, began.streamPosition !== undefined];
    assert.deepEqual(terms(await subscribe(ann, 'asked:a')), [false, false, false]);
    assert.deepEqual(terms(await subscribe(ann, 'asked:b', { positioned: true })), [false, true, true]);
    assert.deepEqual(terms(await subscribe(ann, 'asked:c', { recoverable: true })), [true, true, true]);
    assert.deepEqual(terms(await subscribe(ann, 'placed:a')), [false, true, true]);
    assert.deepEqual(terms(await subscribe(ann, 'placed:b', { recoverable: true })), [false, true, true]);
    assert.deepEqual(terms(await subscribe(ann, 'closed:a', { recoverable: true, positioned: true })),
      [false, false, false]);
    assert.deepEqual(terms(await subscribe(ann, 'plain:a', { recoverable: true, positioned: true })),
      [false, false, false]);
    const log = await subscribe(ann, 'log:a', { recoverable: true });
    assert.deepEqual(terms(log), [true, true, true], 'who may read the history may recover from it');
  });

  test(`${way}: in cache mode the latest publication is what a client comes back to`, async (t) => {
    const server = await start(t);
    const { relay, sub } = await cuttable(t, server, way, 'latest:a');
    relay.hold();
    await tell(server, 'latest:a', 4, 9);
    const back = await letBack(relay, sub);
    assert.deepEqual([back.wasRecovering, back.recovered], [true, true]);
    assert.deepEqual(await sub.until(9), [1, 2, 3, 9]);

    relay.hold();
    const same = await letBack(relay, sub);
    assert.deepEqual([same.recovered, same.hasRecoveredPublications], [true, false], 'it has the latest already');
    await tell(server, 'latest:a', 10, 10);
    assert.deepEqual(await sub.until(10), [1, 2, 3, 9, 10]);

    const bob = await connect(t, server, way, 'bob');
    const fresh = await subscribe(bob, 'latest:a');
    await tell(server, 'latest:a', 11, 11);
    assert.deepEqual(await fresh.until(11), [11], 'who does not recover begins with what comes');
  });

  test(`${way}: with auto_cache_recover a new subscription begins with the latest publication`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const first = await subscribe(ann, 'instant:a');
    assert.deepEqual([first.began.recovered, first.began.hasRecoveredPublications], [false, false]);
    await tell(server, 'instant:a', 1, 3);
    assert.deepEqual(await first.until(3), [1, 2, 3]);
    const bob = await connect(t, server, way, 'bob');
    const second = await subscribe(bob, 'instant:a');
    assert.deepEqual(await second.until(3), [3]);
    assert.equal(second.began.recovered, true);
    await tell(server, 'instant:a', 4, 4);
    assert.deepEqual(await second.until(4), [3, 4]);
  });

  test(`${way}: getState gives the position, and only what it does not have comes`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    await tell(server, 'state:a', 1, 4);
    const { epoch } = await ann.history('state:a', { limit: 0 });
    const relay = await openRelay(t, server);
    const bob = await connect(t, relay, way, 'bob');
    let asked = 0;
    const sub = await subscribe(bob, 'state:a', {
      recoverable: true, getState: async () => { asked += 1; return { offset: 2, epoch }; },
    });
    assert.deepEqual([sub.began.recovered, await sub.until(4)], [true, [3, 4]]);
    relay.hold();
    await tell(server, 'state:a', 5, 7);
    assert.equal((await letBack(relay, sub)).recovered, true);
    assert.deepEqual([await sub.until(7), asked], [[3, 4, 5, 6, 7], 1], 'what is recovered needs no state');
  });

  test(`${way}: a position that cannot be recovered is refused with 112, and the state is read again`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    await tell(server, 'state:b', 1, 8);
    const relay = await openRelay(t, server);
    const bob = await connect(t, relay, way, 'bob');
    const states = [];
    const sub = newSubscription(bob, 'state:b', {
      recoverable: true,
      getState: async () => {
        const { offset, epoch } = await ann.history('state:b', { limit: 0 });
        // The first reading is too old by far: the stream begins at 4.
        states.push(states.length === 0 ? 1 : offset);
        return { offset: states.at(-1), epoch };
      },
    });
    const subscribed = next(sub, 'subscribed');
    sub.subscribe();
    assert.deepEqual([(await subscribed).recovered, states], [true, [1, 8]]);
    await tell(server, 'state:b', 9, 9);
    assert.deepEqual(await sub.until(9), [9]);
    assert.deepEqual((await server.api('channels')).channels, { 'state:b': { num_clients: 1 } });

    relay.hold();
    await tell(server, 'state:b', 10, 19);
    assert.equal((await letBack(relay, sub)).recovered, true);
    await tell(server, 'state:b', 20, 20);
    assert.deepEqual([await sub.until(20), states], [[9, 20], [1, 8, 19]], 'it missed more than is kept');
  });
}

test('publications of clients and of the backend recover as they were', async (t) => {
  const server = await start(t);
  for (const way of WAYS) {
    const relay = await openRelay(t, server);
    const channel = `safe:${way.replace(' ', '-')}`;
    const ann = await connect(t, server, way, 'ann');
    const bob = await connect(t, relay, way, 'bob');
    const [hers, his] = [await subscribe(ann, channel), await subscribe(bob, channel)];
    relay.hold();
    const line = { text: 'grüße\n"☃"', deep: [null, { a: 1.5 }] };
    await hers.publish(pack(way, line));
    await server.api('publish', { channel, data: 'end', tags: { lang: 'de' } });
    await letBack(relay, his);
    assert.deepEqual(await his.until('end'), [line, 'end']);
    const seen = (pub) => ({ ...pub, data: unpack(pub.data), tags: { ...pub.tags } });
    await hers.until('end');
    assert.deepEqual(his.publications.map(seen), hers.publications.map(seen));
    assert.equal(his.publications[0].info.user, 'ann');
  }
});

test('getState that fails is asked again', async (t) => {
  const server = await start(t);
  await tell(server, 'state:z', 1, 3);
  const ann = await connect(t, server, WAYS[0], 'ann');
  let asked = 0;
  const sub = newSubscription(ann, 'state:z', {
    recoverable: true,
    getState: async () => {
      asked += 1;
      if (asked === 1) throw new Error('no database');
      return { offset: 1, epoch: '' };
    },
  });
  const failed = nextError(sub, 13);
  const subscribed = next(sub, 'subscribed');
  sub.subscribe();
  await failed;
  assert.deepEqual([(await subscribed).recovered, await sub.until(3), asked], [true, [2, 3], 2]);
});
