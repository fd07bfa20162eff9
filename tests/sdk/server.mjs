// Starts the server under test on a free loopback port and stops it again: what every JavaScript
// test begins and ends with. `within` puts a deadline on whatever a test waits for.
import { spawn } from 'node:child_process';
import { mkdirSync, openSync, closeSync } from 'node:fs';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const binary = process.env.GANNET ?? path.join(root, 'target/release/gannet');
const logs = path.join(root, 'tests/.cache/logs/servers');
// A folder with ca.pem, cert.pem and key.pem: then all that is said is said over TLS. NODE_EXTRA_CA_CERTS names the first.
const tls = process.env.TESTS_TLS;
const tlsOptions = tls
  ? ['--http_server.tls.enabled', `--http_server.tls.cert_pem=${tls}/cert.pem`, `--http_server.tls.key_pem=${tls}/key.pem`]
  : [];
/** What stands behind `http` and `ws` in URLs. */
export const s = tls ? 's' : '';

export const API_KEY = 'test-api-key';
export const SECRET = 'test-secret-of-at-least-thirty-two-bytes';

/** Waits for `promise`, at most `ms`; the error says what did not come. */
export function within(promise, what, ms = 10_000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A loopback port that is free now. */
export async function freePort() {
  const listener = net.createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address();
  listener.close();
  await once(listener, 'close');
  return port;
}

/** The option that makes these namespaces: their names, each with its options. */
export const namespaces = (named) =>
  ['--channel.namespaces', JSON.stringify(Object.entries(named).map(([name, options]) => ({ name, ...options })))];

/** A running server; stopped when the test `t` ends, if the test has not done so itself. */
export async function startServer(t, options = [], { port, reactors = 2 } = {}) {
  port ??= await freePort();
  const args = [
    '--http_server.address', '127.0.0.1', '--http_server.port', String(port), '--reactors', String(reactors),
    '--health.enabled', '--http_api.key', API_KEY, '--client.token.hmac_secret_key', SECRET,
    '--shutdown.delay', '0s', '--shutdown.spread', '100ms', ...tlsOptions, ...options,
  ];
  mkdirSync(logs, { recursive: true });
  const log = path.join(logs, `${port}.log`);
  const out = openSync(log, 'a');
  const child = spawn(binary, args, { stdio: ['ignore', out, out] });
  closeSync(out);
  const exit = new Promise((resolve, reject) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
    child.once('error', reject);
  });

  const server = {
    port,
    pid: child.pid,
    http: `http${s}://127.0.0.1:${port}`,
    url: `ws${s}://127.0.0.1:${port}/connection/websocket`,

    /** One call of the server API; `key` can be wrong on purpose. */
    async post(method, body, key = API_KEY) {
      return fetch(`${server.http}/api/${method}`, {
        method: 'POST',
        headers: { 'X-API-Key': key, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(10_000),
      });
    },

    /** One call that must be answered; its `result`, or the API's error thrown. */
    async api(method, body = {}) {
      const response = await server.post(method, body);
      const text = await response.text();
      if (response.status !== 200) throw new Error(`api ${method}: HTTP ${response.status} ${text}`);
      const { result, error } = JSON.parse(text);
      if (error) throw Object.assign(new Error(`api ${method}: ${error.message}`), error);
      return result;
    },

    /**
     * Waits until the channels and their clients are these. A client may hear of one channel before the owner of
     * another has heard of the client.
     */
    hasChannels: (wanted) => within((async () => {
      while (!isDeepStrictEqual((await server.api('channels')).channels, wanted));
    })(), `channels ${JSON.stringify(wanted)}`),

    signal: (name) => child.kill(name),

    /** Ends the process and waits for it; the way it ended. */
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      try {
        return await within(exit, `exit of the server after ${signal}`, 10_000);
      } catch (late) {
        child.kill('SIGKILL');
        throw late;
      }
    },
  };
  t.after(() => server.stop('SIGKILL'));

  const deadline = Date.now() + 10_000;
  for (;;) {
    const up = await fetch(`${server.http}/health`, { signal: AbortSignal.timeout(1000) }).then(
      (response) => response.arrayBuffer().then(() => response.ok), () => false);
    if (up) return server;
    const ended = await Promise.race([exit, new Promise((next) => setTimeout(next, 10))]);
    if (ended) throw new Error(`the server ended at start (${JSON.stringify(ended)}), see ${log}`);
    if (Date.now() > deadline) throw new Error(`the server is not healthy after 10 s, see ${log}`);
  }
}
