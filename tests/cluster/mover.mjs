// A client of the official JavaScript SDK in one channel, which says what it hears, a line each. It ends with its input.
//
// node mover.mjs WAY STREAM EMULATION CHANNEL [DELTA]: commands of transports that go one way are posted to EMULATION.
import { newClient, unpack } from '../sdk/client.mjs';

const [way, stream, emulation, channel, delta] = process.argv.slice(2);
const say = (event, what) => console.log(JSON.stringify({ event, ...what }));

const server = { url: `ws://${stream}/connection/websocket`, http: `http://${stream}` };
const client = newClient({ after() {} }, server, way, { emulationEndpoint: `http://${emulation}/emulation` });
const subscription = client.newSubscription(channel, { minResubscribeDelay: 20, maxResubscribeDelay: 200, delta });
subscription.on('subscribed', ({ wasRecovering, recovered }) => say('subscribed', { wasRecovering, recovered }));
subscription.on('publication', ({ offset, data }) => {
  say('publication', { offset, data: unpack(data), deltas: subscription.deltaStats().numDeltaPayloads });
});
subscription.on('unsubscribed', ({ code, reason }) => say('unsubscribed', { code, reason }));
client.on('disconnected', ({ code, reason }) => say('disconnected', { code, reason }));
subscription.subscribe();
client.connect();
process.stdin.on('end', () => process.exit()).resume();
