// Proves in a real browser that it believes the certificate of an authority which its user has added, and talks over
// wss: run by `tests/run sdk-tls`, with TESTS_TLS and a home whose certificates are in TESTS_TLS_HOME.
import test from 'node:test';
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { startServer } from '../sdk/server.mjs';
import { openTab } from './browser.mjs';

/** A browser of this user, who may know an authority or not. */
const open = (home) => chromium.launch({
  executablePath: process.env.CHROMIUM, headless: true, chromiumSandbox: false, args: ['--no-proxy-server'],
  env: { ...process.env, HOME: home },
});

/** Opens a WebSocket in the page and says what became of it. */
const attempt = (page, url) => page.evaluate((to) => new Promise((resolve) => {
  const socket = new WebSocket(to);
  socket.onopen = () => socket.send('{"id":1,"connect":{}}');
  socket.onmessage = ({ data }) => { resolve(data); socket.close(); };
  socket.onclose = ({ code }) => resolve(code);
}), url);

test('a browser connects by wss from a page by https', async (t) => {
  const server = await startServer(t, ['--client.insecure']);
  const browser = await open(process.env.TESTS_TLS_HOME);
  t.after(() => browser.close());
  const page = await openTab(t, browser);
  const [answer, there] = [await page.goto(`${server.http}/health`), `${server.http}/health`];
  assert.deepEqual([answer.status(), page.url()], [200, there]);
  const { protocol } = await answer.securityDetails();
  assert.equal(protocol, 'TLS 1.3');
  assert.match(await attempt(page, server.url), /"connect":\{"client":/);
});

test('a browser that does not know the authority does not connect', async (t) => {
  const server = await startServer(t, ['--client.insecure']);
  const browser = await open(process.env.TESTS_TLS);
  t.after(() => browser.close());
  const page = await openTab(t, browser);
  await assert.rejects(page.goto(`${server.http}/health`), /ERR_CERT_AUTHORITY_INVALID/);
  assert.equal(await attempt(await openTab(t, browser), server.url), 1006);
});
