// Proves with a real browser's Origin header that a page from elsewhere may not connect, unless
// the operator allows it, and that a page of the server's own host may.
import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import http from 'node:http';
import { once } from 'node:events';
import { startServer } from '../sdk/server.mjs';
import { openBrowser, openTab } from './browser.mjs';

let browser;
let elsewhere;
before(async () => {
  browser = await openBrowser();
  elsewhere = http.createServer((_, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end('<!doctype html><title>elsewhere</title>');
  }).listen(0, '127.0.0.1');
  await once(elsewhere, 'listening');
});
after(async () => {
  await browser?.close();
  elsewhere?.close();
});

const site = () => `http://127.0.0.1:${elsewhere.address().port}/`;

/** Opens a WebSocket in the page and says what became of it. */
const attempt = (page, url) => page.evaluate((to) => new Promise((resolve) => {
  const socket = new WebSocket(to);
  socket.onopen = () => socket.send('{"id":1,"connect":{}}');
  socket.onmessage = ({ data }) => { resolve(data); socket.close(); };
  socket.onclose = ({ code }) => resolve(code);
}), url);

/** The status of an upgrade request with this Origin, or none. */
function upgradeStatus(server, origin) {
  return new Promise((resolve, reject) => {
    const request = http.get(`${server.http}/connection/websocket`, { agent: false, headers: {
      Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', ...(origin && { Origin: origin }),
    } });
    request.setTimeout(10_000, () => request.destroy(new Error('no answer')));
    request.on('response', (response) => { response.resume(); resolve(response.statusCode); });
    request.on('upgrade', (response, socket) => { socket.destroy(); resolve(response.statusCode); });
    request.on('error', reject);
  });
}

test('a page of another origin is refused', async (t) => {
  const server = await startServer(t, ['--client.insecure']);
  const page = await openTab(t, browser);
  await page.goto(site());
  assert.equal(await attempt(page, server.url), 1006);
  assert.equal(await upgradeStatus(server, site().slice(0, -1)), 403);
  assert.equal(await upgradeStatus(server, undefined), 101);
});

test('with allowed_origins * it may connect', async (t) => {
  const server = await startServer(t, ['--client.insecure', '--client.allowed_origins', '*']);
  const page = await openTab(t, browser);
  await page.goto(site());
  assert.match(String(await attempt(page, server.url)), /"connect":\{"client":/);
});

test('a listed origin may connect, another may not', async (t) => {
  const server = await startServer(t, ['--client.insecure', '--client.allowed_origins', site().slice(0, -1)]);
  const page = await openTab(t, browser);
  await page.goto(site());
  assert.match(String(await attempt(page, server.url)), /"connect":\{"client":/);
  assert.equal(await upgradeStatus(server, 'http://evil.example'), 403);
});

test('a page of the server itself may connect', async (t) => {
  const server = await startServer(t, ['--dev']);
  const page = await openTab(t, browser);
  await page.goto(server.http);
  assert.match(String(await attempt(page, server.url)), /"connect":\{"client":/);
});
