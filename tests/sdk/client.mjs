// Clients as an application would write them: the official JavaScript SDK over any of its transports
// in either encoding, tokens signed here with node:crypto, and inboxes that keep what was heard.
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { Centrifuge as JsonClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';
import { SECRET, within } from './server.mjs';

export const ENCODINGS = ['json', 'protobuf'];

/** The transports of the SDK that the tests go over; the SDK also knows 'http_stream' and 'sse'. */
export const TRANSPORTS = ['websocket', 'http_stream', 'sse'];

/** Each way to the server, by its name: what most tests are repeated over. */
const SPOKEN = { websocket: ENCODINGS, http_stream: ENCODINGS, sse: ['json'] };
export const WAYS = TRANSPORTS.flatMap((transport) => SPOKEN[transport].map((encoding) => `${transport} ${encoding}`));

/** What a server needs to be told for these transports. */
export const OFFERED = TRANSPORTS.filter((name) => name !== 'websocket').map((name) => `--${name}.enabled`);

/** A way's parts. An encoding alone is a way too: over WebSocket. */
const partsOf = (way) => {
  const [transport, encoding] = way.includes(' ') ? way.split(' ') : ['websocket', way];
  return { transport, encoding };
};

/** A JWT signed with HS256. */
export function token(claims, { secret = SECRET, header = { alg: 'HS256', typ: 'JWT' } } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part(header)}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

export const inSeconds = (n) => Math.floor(Date.now() / 1000) + n;

/** Application values as the `data` of a way, and back: Protobuf clients send and get bytes. */
export const pack = (way, value) =>
  partsOf(way).encoding === 'json' ? value : new TextEncoder().encode(JSON.stringify(value));
export const unpack = (data) =>
  data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data;

/** A client, not connected yet; closed when the test ends. Quick to reconnect, so tests are too. */
export function newClient(t, server, way, options = {}) {
  const { transport, encoding } = partsOf(way);
  const Client = encoding === 'json' ? JsonClient : ProtobufClient;
  const endpoint = transport === 'websocket' ? server.url : `${server.http}/connection/${transport}`;
  const client = new Client([{ transport, endpoint }], {
    websocket: WebSocket,
    eventsource: EventSource,
    emulationEndpoint: `${server.http}/emulation`,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  });
  t.after(() => client.disconnect());
  return client;
}

/** The next `event` of a client or subscription. Call it before what causes the event. */
export const next = (emitter, event, ms) =>
  within(new Promise((resolve) => emitter.once(event, resolve)), `event "${event}"`, ms);

/** A promise and what fulfils it. */
export function later() {
  let resolve;
  const promise = new Promise((fulfil) => { resolve = fulfil; });
  return { promise, resolve };
}

/** A list that grows with `event`, and that can be waited for. */
export function inbox(emitter, event, what = (ctx) => ctx) {
  const list = [];
  let look = () => {};
  list.changed = () => look();
  emitter.on(event, (ctx) => { list.push(what(ctx)); list.changed(); });
  /** All of it, once it is as wanted. */
  list.until = (wanted, ms) => within(new Promise((resolve) => {
    look = () => wanted(list) && resolve([...list]);
    look();
  }), `"${event}" as wanted`, ms);
  /** All of it, once there are `count`. */
  list.first = (count, ms) => list.until(({ length }) => length >= count, ms);
  return list;
}

/** The next connection error the client reports with this code. */
export function nextError(emitter, code) {
  const seen = new Promise((resolve) => {
    emitter.on('error', (ctx) => ctx.error.code === code && resolve(ctx));
  });
  return within(seen, `error ${code}`);
}

/** A connected client of `user`. Its id is in `id`. */
export async function connect(t, server, way, user, options = {}) {
  const client = newClient(t, server, way, { token: token({ sub: user }), ...options });
  client.on('connected', (ctx) => { client.id = ctx.client; });
  const connected = next(client, 'connected');
  client.connect();
  await connected;
  return client;
}

/** A live subscription with everything it hears in `heard`, in order. */
export async function subscribe(client, channel, options = {}) {
  const subscription = newSubscription(client, channel, options);
  const subscribed = next(subscription, 'subscribed');
  subscription.subscribe();
  subscription.began = await subscribed;
  return subscription;
}

/** The same before it is subscribed: `began` is not there yet. */
export function newSubscription(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, {
    minResubscribeDelay: 20, maxResubscribeDelay: 200, ...options,
  });
  subscription.heard = [];
  subscription.publications = [];
  let look = () => {};
  subscription.on('publication', (publication) => {
    subscription.publications.push(publication);
    subscription.heard.push(unpack(publication.data));
    look();
  });
  /** Everything heard once `value` has been: what came before it, and nothing twice. */
  subscription.until = (value, ms) => within(new Promise((resolve) => {
    const wanted = JSON.stringify(value);
    look = () => JSON.stringify(subscription.heard.at(-1)) === wanted && resolve([...subscription.heard]);
    look();
  }), `"${JSON.stringify(value)}" in ${channel}`, ms);
  return subscription;
}

/** Sends all commands of `act` in one message: over some transports others may overtake each other. */
export async function together(client, act) {
  client.startBatching();
  const done = act();
  // The SDK asks for some commands in a later turn of its own.
  await new Promise(setImmediate);
  client.stopBatching();
  return done;
}

/** The code and reason with which a subscription is refused, for good. */
export async function refusal(subscription) {
  const unsubscribed = next(subscription, 'unsubscribed');
  subscription.subscribe();
  const { code, reason } = await unsubscribed;
  return { code, reason };
}

/** A bare WebSocket, for what an SDK would never send: whole frames out, whole frames in. */
export async function openSocket(t, server, { protobuf = false } = {}) {
  const socket = new WebSocket(server.url, protobuf ? ['centrifuge-protobuf'] : []);
  t.after(() => socket.terminate());
  const frames = [];
  let wake = () => {};
  socket.on('message', (data, binary) => { frames.push(binary ? data : data.toString()); wake(); });
  const closed = new Promise((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  await within(once(socket, 'open'), 'the upgrade');
  return {
    send: (frame) => socket.send(frame),
    subprotocol: socket.protocol,
    /** The next frame from the server. */
    frame: () => within((async () => {
      while (frames.length === 0) await new Promise((resolve) => { wake = resolve; });
      return frames.shift();
    })(), 'a frame'),
    closed: () => within(closed, 'the close'),
  };
}
