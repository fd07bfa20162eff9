// Proves with the official JavaScript SDK that the application's backend decides where it is asked to:
// who subscribes and on which terms, what is published, and how long a subscription lasts.
import test from 'node:test';
import assert from 'node:assert/strict';
import { namespaces, startServer } from './server.mjs';
import { startBackend } from './backend.mjs';
import {
  OFFERED, WAYS, connect, inSeconds, inbox, later, newSubscription, next, pack, refusal, subscribe, together, unpack,
} from './client.mjs';

const ASKING = namespaces({
  asks: { subscribe_proxy_enabled: true, presence: true, allow_presence_for_subscriber: true },
  says: {
    allow_subscribe_for_client: true, publish_proxy_enabled: true, history_size: 10, history_ttl: '60s',
    allow_history_for_subscriber: true,
  },
  lasts: { subscribe_proxy_enabled: true, sub_refresh_proxy_enabled: true },
});
const start = (t, backend, more = []) => startServer(t, [
  ...OFFERED, ...ASKING, ...backend.as('channel.proxy.subscribe'), ...backend.as('channel.proxy.publish'),
  ...backend.as('channel.proxy.sub_refresh'), '--client.expired_sub_close_delay', '5s', ...more,
]);
const ERROR = { error: { code: 1000, message: 'not today' } };

for (const way of WAYS) {
  const [transport, encoding] = way.split(' ');

  test(`${way}: the backend is asked who may subscribe`, async (t) => {
    const answers = {
      'asks:yes': { result: { info: { seat: 4 }, data: { hello: 'ü' } } },
      'asks:no': ERROR,
      'asks:out': { disconnect: { code: 4501, reason: 'stay out' } },
      'asks:broken': 500,
      'asks:loud': { result: { override: {
        join_leave: { value: true }, force_push_join_leave: { value: true }, presence: { value: false },
      } } },
    };
    const backend = await startBackend(t, { subscribe: ({ channel }) => answers[channel] });
    const server = await start(t, backend);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'asks:yes', { data: pack(way, { from: 'ann' }) });
    assert.deepEqual(unpack(sub.began.data), { hello: 'ü' });
    const [seen] = Object.values((await sub.presence()).clients);
    assert.deepEqual([seen.client, unpack(seen.chanInfo)], [ann.id, { seat: 4 }]);
    const { client, user, channel, data, ...rest } = backend.asked[0];
    assert.deepEqual({ client, user, channel, data },
      { client: ann.id, user: 'ann', channel: 'asks:yes', data: { from: 'ann' } });
    assert.deepEqual([rest.transport, rest.protocol], [transport, encoding]);

    const loud = newSubscription(ann, 'asks:loud');
    const joins = inbox(loud, 'join', ({ info }) => info.user);
    loud.subscribe();
    assert.deepEqual(await joins.first(1), ['ann']);
    assert.equal((await loud.presenceStats()).numClients, 0);

    assert.deepEqual(await refusal(newSubscription(ann, 'asks:no')), { code: 1000, reason: 'not today' });
    const broken = newSubscription(ann, 'asks:broken');
    const error = next(broken, 'error');
    broken.subscribe();
    assert.equal((await error).error.code, 100, 'and the SDK tries again');
    broken.unsubscribe();
    await server.api('publish', { channel: 'asks:yes', data: 'end' });
    assert.deepEqual(await sub.until('end'), ['end']);
    const gone = next(ann, 'disconnected');
    newSubscription(ann, 'asks:out').subscribe();
    const { code, reason } = await gone;
    assert.deepEqual({ code, reason }, { code: 4501, reason: 'stay out' });
  });

  test(`${way}: while the backend thinks, the client may change its mind`, async (t) => {
    const first = later();
    const backend = await startBackend(t, {
      subscribe: async ({ channel }) => {
        if (channel === 'asks:slow' && backend.of('subscribe').length === 1) await first.promise;
        return { result: {} };
      },
    });
    const server = await start(t, backend);
    const ann = await connect(t, server, way, 'ann');
    const slow = newSubscription(ann, 'asks:slow');
    const errors = inbox(slow, 'error');
    const asked = inbox(slow, 'subscribing');
    slow.subscribe();
    await asked.first(1);
    for (let round = 0; round < 20; round += 1) {
      slow.unsubscribe();
      slow.subscribe();
    }
    first.resolve();
    await slow.ready(5000);
    await server.api('publish', { channel: 'asks:slow', data: 'end' });
    assert.deepEqual(await slow.until('end'), ['end']);
    assert.deepEqual([...errors], []);
    assert.equal((await slow.presenceStats()).numClients, 1);
    await together(ann, () => {
      slow.unsubscribe();
      return subscribe(ann, 'asks:quick');
    });
    await server.hasChannels({ 'asks:quick': { num_clients: 1 } });
  });

  test(`${way}: the backend is asked what may be published, and may change it`, async (t) => {
    const backend = await startBackend(t, {
      publish: ({ data }) => ({
        plain: { result: {} },
        changed: { result: { data: { said: 'changed' } } },
        unkept: { result: { skip_history: true } },
        refused: ERROR,
        thrown: { disconnect: { code: 4502, reason: 'mind your language' } },
      })[data],
    });
    const server = await start(t, backend);
    const ann = await connect(t, server, way, 'ann');
    const sub = await subscribe(ann, 'says:a');
    for (const data of ['plain', 'changed', 'unkept']) await sub.publish(pack(way, data));
    assert.deepEqual(await sub.until('unkept'), ['plain', { said: 'changed' }, 'unkept']);
    assert.equal(sub.publications[1].info.user, 'ann');
    const { publications } = await sub.history({ limit: -1 });
    assert.deepEqual(publications.map(({ data }) => unpack(data)), ['plain', { said: 'changed' }]);
    await assert.rejects(sub.publish(pack(way, 'refused')), { code: 1000, message: 'not today' });
    assert.deepEqual(backend.of('publish').map(({ data }) => data), ['plain', 'changed', 'unkept', 'refused']);
    assert.deepEqual([backend.asked[0].channel, backend.asked[0].user], ['says:a', 'ann']);
    const gone = next(ann, 'disconnected');
    sub.publish(pack(way, 'thrown')).catch(() => {});
    assert.equal((await gone).code, 4502);
  });

  test(`${way}: the backend gives a subscription more time, or ends it`, async (t) => {
    const refreshed = later();
    const backend = await startBackend(t, {
      subscribe: () => ({ result: { expire_at: inSeconds(2) } }),
      sub_refresh: ({ channel }) => {
        if (channel === 'lasts:short') return { result: { expired: true } };
        if (backend.of('sub_refresh').filter((question) => question.channel === channel).length === 2) {
          refreshed.resolve();
          return { result: { expire_at: inSeconds(600) } };
        }
        return { result: { expire_at: inSeconds(2) } };
      },
    });
    const server = await start(t, backend);
    const ann = await connect(t, server, way, 'ann');
    const long = await subscribe(ann, 'lasts:long');
    const states = inbox(long, 'state');
    const short = await subscribe(ann, 'lasts:short');
    const { code } = await next(short, 'subscribing');
    assert.equal(code, 2501);
    short.unsubscribe();
    await refreshed.promise;
    await server.api('publish', { channel: 'lasts:long', data: 'end' });
    assert.deepEqual(await long.until('end'), ['end']);
    assert.deepEqual([...states], []);
  });
}

test('a backend that is gone leaves clients with an error, and the server with its other work', async (t) => {
  const backend = await startBackend(t, { subscribe: () => new Promise(() => {}) });
  const server = await start(t, backend, ['--channel.proxy.subscribe.timeout', '200ms']);
  const ann = await connect(t, server, WAYS[0], 'ann');
  const silent = newSubscription(ann, 'asks:a');
  const error = next(silent, 'error');
  silent.subscribe();
  const says = await subscribe(ann, 'says:b');
  await server.api('publish', { channel: 'says:b', data: 'end' });
  assert.deepEqual(await says.until('end'), ['end']);
  assert.equal((await error).error.code, 100);
});
