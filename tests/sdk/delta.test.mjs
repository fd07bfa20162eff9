// Proves with the official JavaScript SDK what makes a channel cheaper to hear: deltas, which the SDK
// undoes and checks by their checksum, and filters by tags.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer } from './server.mjs';
import {
  ENCODINGS, OFFERED, WAYS, connect, newSubscription, next, openSocket, pack, refusal, subscribe, token,
} from './client.mjs';
import { openRelay } from './relay.mjs';

const KEPT = { allow_subscribe_for_client: true, history_size: 100, history_ttl: '60s' };
const CHEAP = namespaces({
  match: {
    ...KEPT, force_recovery: true, allowed_delta_types: ['fossil'], delta_publish: true,
    allow_publish_for_subscriber: true,
  },
  live: { ...KEPT, allowed_delta_types: ['fossil'], delta_publish: true },
  latest: {
    ...KEPT, force_recovery: true, force_recovery_mode: 'cache', allowed_delta_types: ['fossil'], delta_publish: true,
  },
  whole: { ...KEPT, delta_publish: true },
  news: { ...KEPT, allow_tags_filter: true, force_recovery: true },
  plain: { allow_subscribe_for_client: true, allow_tags_filter: true },
});
const start = (t, more = [], how = {}) => startServer(t, [...OFFERED, ...CHEAP, ...more], how);

/** The score of a match: much of it is the same each minute. */
const score = (minute) => ({
  match: 'Brøndby – København', minute, home: { name: 'Brøndby IF', goals: Math.floor(minute / 7) },
  away: { name: 'FC København', goals: Math.floor(minute / 11) }, commentary: '“…”\n'.repeat(20),
});
const scores = (from, to) => Array.from({ length: to - from + 1 }, (_, n) => score(from + n));

async function tell(server, channel, from, to) {
  for (const data of scores(from, to)) await server.api('publish', { channel, data });
}

/** How many publications of a subscription came whole, and how many as deltas. */
const counts = (sub) => {
  const { numFullPayloads: whole, numDeltaPayloads: deltas } = sub.deltaStats();
  return { whole, deltas };
};

for (const way of WAYS) {
  test(`${way}: after the first publication come deltas, and others hear the channel as ever`, async (t) => {
    const server = await start(t, [], { reactors: 3 });
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'match:a', { delta: 'fossil' });
    const others = await Promise.all(ENCODINGS.map(async (encoding) =>
      subscribe(await connect(t, server, encoding, encoding), 'match:a')));
    await tell(server, 'match:a', 1, 9);
    await sub.publish(pack(way, score(10)));
    assert.deepEqual(await sub.until(score(10)), scores(1, 10));
    assert.deepEqual(counts(sub), { whole: 1, deltas: 9 });
    assert.ok(sub.deltaStats().compressionRatio > 0.5);
    assert.equal(sub.publications[9].info.user, 'ann');
    for (const other of others) {
      assert.deepEqual(await other.until(score(10)), scores(1, 10));
      assert.equal(other.deltaStats().numDeltaPayloads, 0);
    }
  });

  test(`${way}: who comes later begins with a whole publication`, async (t) => {
    const server = await start(t);
    const [ann, bob] = [await connect(t, server, way, 'ann'), await connect(t, server, way, 'bob')];
    const hers = await subscribe(ann, 'live:a', { delta: 'fossil' });
    await tell(server, 'live:a', 1, 4);
    await hers.until(score(4));
    const his = await subscribe(bob, 'live:a', { delta: 'fossil' });
    await tell(server, 'live:a', 5, 8);
    assert.deepEqual(await his.until(score(8)), scores(5, 8));
    assert.deepEqual(counts(his), { whole: 1, deltas: 3 });
    assert.deepEqual(await hers.until(score(8)), scores(1, 8));
    assert.deepEqual(counts(hers), { whole: 1, deltas: 7 });

    const again = next(hers, 'subscribed');
    hers.unsubscribe();
    hers.subscribe();
    await again;
    await tell(server, 'live:a', 9, 10);
    assert.deepEqual(await hers.until(score(10)), scores(1, 10));
    assert.deepEqual(counts(hers), { whole: 2, deltas: 8 }, 'a new subscription knows nothing of the old one');
  });

  test(`${way}: what is recovered is a chain of deltas, and goes on live`, async (t) => {
    const server = await start(t);
    const relay = await openRelay(t, server);
    const ann = await connect(t, relay, way, 'ann');
    const sub = await subscribe(ann, 'match:b', { delta: 'fossil' });
    await tell(server, 'match:b', 1, 3);
    await sub.until(score(3));
    for (const missed of [4, 8]) {
      const again = next(sub, 'subscribed');
      relay.hold();
      await tell(server, 'match:b', missed, missed + 1);
      relay.resume();
      assert.equal((await again).recovered, true);
      await tell(server, 'match:b', missed + 2, missed + 3);
      assert.deepEqual(await sub.until(score(missed + 3)), scores(1, missed + 3));
    }
    assert.deepEqual(counts(sub), { whole: 3, deltas: 8 });

    const again = next(sub, 'subscribed');
    relay.hold();
    relay.resume();
    assert.equal((await again).recovered, true);
    await tell(server, 'match:b', 12, 13);
    assert.deepEqual(await sub.until(score(13)), scores(1, 13));
    assert.deepEqual(counts(sub), { whole: 4, deltas: 9 }, 'nothing was recovered to go on from');
  });

  test(`${way}: the latest publication of cache mode is what deltas begin with`, async (t) => {
    const server = await start(t);
    const relay = await openRelay(t, server);
    const ann = await connect(t, relay, way, 'ann');
    const sub = await subscribe(ann, 'latest:a', { delta: 'fossil' });
    await tell(server, 'latest:a', 1, 2);
    await sub.until(score(2));
    const again = next(sub, 'subscribed');
    relay.hold();
    await tell(server, 'latest:a', 3, 6);
    relay.resume();
    assert.equal((await again).recovered, true);
    await tell(server, 'latest:a', 7, 8);
    assert.deepEqual(await sub.until(score(8)), [...scores(1, 2), ...scores(6, 8)]);
    assert.deepEqual(counts(sub), { whole: 2, deltas: 3 });
  });

  test(`${way}: what has little in common comes whole`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'match:c', { delta: 'fossil' });
    const lines = [1, 'x', null, true, [], {}, 'ü', '☃'.repeat(50), '☃'.repeat(51), score(1), 'end'];
    for (const data of lines) await server.api('publish', { channel: 'match:c', data });
    assert.deepEqual(await sub.until('end'), lines);
    assert.deepEqual(counts(sub), { whole: 10, deltas: 1 });
  });

  test(`${way}: a channel that allows no deltas has none`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'whole:a', { delta: 'fossil' });
    await tell(server, 'whole:a', 1, 5);
    assert.deepEqual(await sub.until(score(5)), scores(1, 5));
    assert.equal(sub.deltaStats().numPublications, 0, 'deltas were not negotiated');
  });

  test(`${way}: a filter lets through what its tags match, and no more`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const tags = [
      { lang: 'de', size: '5' }, { lang: 'da', size: '10' }, { lang: 'de-CH', size: '100' }, { size: 'large' }, {},
    ];
    const key = 'lang';
    const german = { key, cmp: 'sw', val: 'de' };
    const filters = {
      eq: [{ key, cmp: 'eq', val: 'de' }, [0]],
      neq: [{ key, cmp: 'neq', val: 'de' }, [1, 2, 3, 4]],
      in: [{ key, cmp: 'in', vals: ['da', 'de'] }, [0, 1]],
      nin: [{ key, cmp: 'nin', vals: ['da', 'de'] }, [2, 3, 4]],
      ex: [{ key, cmp: 'ex' }, [0, 1, 2]],
      nex: [{ key, cmp: 'nex' }, [3, 4]],
      sw: [german, [0, 2]],
      ew: [{ key, cmp: 'ew', val: 'a' }, [1]],
      ct: [{ key, cmp: 'ct', val: 'e-' }, [2]],
      lt: [{ key: 'size', cmp: 'lt', val: '10' }, [0]],
      lte: [{ key: 'size', cmp: 'lte', val: '10' }, [0, 1]],
      gt: [{ key: 'size', cmp: 'gt', val: '10' }, [2]],
      gte: [{ key: 'size', cmp: 'gte', val: '10' }, [1, 2]],
      and: [{ op: 'and', nodes: [german, { key: 'size', cmp: 'gt', val: '5' }] }, [2]],
      or: [{ op: 'or', nodes: [german, { key: 'size', cmp: 'eq', val: 'large' }] }, [0, 2, 3]],
      not: [{ op: 'not', nodes: [german] }, [1, 3, 4]],
      deep: [{ op: 'and', nodes: [{ op: 'not', nodes: [german] }, { op: 'or', nodes: [
        { key: 'size', cmp: 'ex' }, { key: 'none', cmp: 'ex' }] }] }, [1, 3]],
    };
    // The end is let through by every filter, and is not of those judged.
    const or = (node) => ({ op: 'or', nodes: [node, { key: 'end', cmp: 'eq', val: 'yes' }] });
    const names = Object.keys(filters);
    const subs = await Promise.all(names.map(async (name) => subscribe(
      await connect(t, server, way, name), 'plain:a', { tagsFilter: or(filters[name][0]) })));
    const all = await subscribe(ann, 'plain:a');
    for (const [data, own] of tags.entries()) await server.api('publish', { channel: 'plain:a', data, tags: own });
    await server.api('publish', { channel: 'plain:a', data: 'end', tags: { end: 'yes' } });
    assert.deepEqual(await all.until('end'), [0, 1, 2, 3, 4, 'end']);
    for (const [at, name] of names.entries()) {
      assert.deepEqual(await subs[at].until('end'), [...filters[name][1], 'end'], name);
    }
  });

  test(`${way}: recovery goes through the filter, and a filter can be changed`, async (t) => {
    const server = await start(t);
    const relay = await openRelay(t, server);
    const ann = await connect(t, relay, way, 'ann');
    const sub = await subscribe(ann, 'news:a', { tagsFilter: { key: 'lang', cmp: 'eq', val: 'de' } });
    const say = (data, lang) => server.api('publish', { channel: 'news:a', data, tags: { lang } });
    await say(1, 'de');
    await say(2, 'da');
    await say(3, 'de');
    await sub.until(3);
    const back = next(sub, 'subscribed');
    relay.hold();
    for (const [data, lang] of [[4, 'da'], [5, 'de'], [6, 'da'], [7, 'da']]) await say(data, lang);
    relay.resume();
    assert.equal((await back).recovered, true);
    await say(8, 'de');
    assert.deepEqual(await sub.until(8), [1, 3, 5, 8]);

    const again = next(sub, 'subscribed');
    sub.unsubscribe();
    sub.setTagsFilter({ key: 'lang', cmp: 'eq', val: 'da' });
    sub.subscribe();
    await again;
    await say(9, 'de');
    await say(10, 'da');
    assert.deepEqual(await sub.until(10), [1, 3, 5, 8, 10]);
  });

  test(`${way}: filters that are wrong, or not allowed, are refused with 107`, async (t) => {
    const server = await start(t);
    const ann = await connect(t, server, way, 'ann');
    const key = 'lang';
    const wrong = [
      { key, cmp: 'like', val: 'de' }, { key, cmp: '' }, { op: 'xor', nodes: [{ key, cmp: 'ex' }] },
      { op: 'not', nodes: [{ key, cmp: 'ex' }, { key, cmp: 'ex' }] },
    ];
    for (const [at, tagsFilter] of wrong.entries()) {
      const refused = await refusal(newSubscription(ann, `plain:w${at}`, { tagsFilter }));
      assert.deepEqual(refused, { code: 107, reason: 'bad request' }, JSON.stringify(tagsFilter));
    }
    const sub = newSubscription(ann, 'live:w', { tagsFilter: { key, cmp: 'ex' } });
    assert.equal((await refusal(sub)).code, 107);
    assert.equal(ann.state, 'connected');
  });
}

test('for JSON the data of a delta subscription is a string, whole or not', async (t) => {
  const server = await start(t);
  const socket = await openSocket(t, server);
  const send = (...commands) => socket.send(commands.map((command) => JSON.stringify(command)).join('\n'));
  const waiting = [];
  const line = async () => {
    while (waiting.length === 0) waiting.push(...(await socket.frame()).split('\n'));
    return JSON.parse(waiting.shift());
  };
  send(
    { id: 1, connect: { token: token({ sub: 'ann' }) } }, { id: 2, subscribe: { channel: 'live:s', delta: 'fossil' } });
  await line();
  assert.deepEqual(await line(), { id: 2, subscribe: { delta: true } });
  await tell(server, 'live:s', 1, 2);
  const [whole, delta] = [(await line()).push.pub, (await line()).push.pub];
  assert.deepEqual(JSON.parse(whole.data), score(1));
  assert.equal(whole.delta, undefined);
  assert.equal(typeof delta.data, 'string');
  assert.equal(delta.delta, true);
  assert.deepEqual([whole.offset, delta.offset], [1, 2]);
  // The text begins with the length of what it becomes, in base 64, and ends with a checksum.
  assert.match(delta.data, /^[0-9A-Za-z_~]+\n[^]*;$/);

  send({ id: 3, subscribe: { channel: 'live:t', delta: 'xor' } });
  assert.equal((await socket.closed()).code, 3501);
});
