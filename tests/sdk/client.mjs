// Clients as an application would write them: the official JavaScript SDK over `ws` in either
// encoding, tokens signed here with node:crypto, and an inbox that keeps what a subscription heard.
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { Centrifuge as JsonClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';
import { SECRET, within } from './server.mjs';

export const ENCODINGS = ['json', 'protobuf'];

/** A JWT signed with HS256. */
export function token(claims, { secret = SECRET, header = { alg: 'HS256', typ: 'JWT' } } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part(header)}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

export const inSeconds = (n) => Math.floor(Date.now() / 1000) + n;

/** Application values as an encoding's `data`, and back: Protobuf clients send and get bytes. */
export const pack = (encoding, value) =>
  encoding === 'json' ? value : new TextEncoder().encode(JSON.stringify(value));
export const unpack = (data) =>
  data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data;

/** A client, not connected yet; closed when the test ends. Quick to reconnect, so tests are too. */
export function newClient(t, server, encoding, options = {}) {
  const Client = encoding === 'json' ? JsonClient : ProtobufClient;
  const client = new Client(server.url, {
    websocket: WebSocket, minReconnectDelay: 20, maxReconnectDelay: 200, ...options,
  });
  t.after(() => client.disconnect());
  return client;
}

/** The next `event` of a client or subscription. Call it before what causes the event. */
export const next = (emitter, event, ms) =>
  within(new Promise((resolve) => emitter.once(event, resolve)), `event "${event}"`, ms);

/** The next connection error the client reports with this code. */
export function nextError(emitter, code) {
  const seen = new Promise((resolve) => {
    emitter.on('error', (ctx) => ctx.error.code === code && resolve(ctx));
  });
  return within(seen, `error ${code}`);
}

/** A connected client of `user`. */
export async function connect(t, server, encoding, user, options = {}) {
  const client = newClient(t, server, encoding, { token: token({ sub: user }), ...options });
  const connected = next(client, 'connected');
  client.connect();
  await connected;
  return client;
}

/** A live subscription with everything it hears in `heard`, in order. */
export async function subscribe(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, options);
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
  const subscribed = next(subscription, 'subscribed');
  subscription.subscribe();
  await subscribed;
  return subscription;
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
