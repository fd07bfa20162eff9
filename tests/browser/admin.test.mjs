// Proves in a real browser that the page for operators shows a node as it is, and does what its buttons say: signing
// in, live numbers, channels, clients, calls of the API, the configuration; on a phone and in the dark as well.
import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { startServer } from '../sdk/server.mjs';
import { openBrowser, openTab } from './browser.mjs';

const PASSWORD = 'correct horse battery staple';
/** `ADMIN_SHOTS=DIR` keeps pictures of the page there. */
const SHOTS = process.env.ADMIN_SHOTS;

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser?.close());

const start = (t, more = []) => startServer(t, [
  '--admin.enabled', '--admin.password', PASSWORD, '--client.insecure',
  '--channel.without_namespace.presence', '--channel.without_namespace.history_size', '10',
  '--channel.without_namespace.history_ttl', '10m', ...more,
]);

/** A client of the node, in the page's own browser: its commands, and what it heard. */
async function join(page, server, user, channel) {
  await page.evaluate(async ([url, user, channel]) => {
    const socket = new WebSocket(url);
    window.heard = [];
    window.over = new Promise((done) => { socket.onclose = (event) => done(event.code); });
    const replies = new Promise((done) => {
      socket.onmessage = ({ data }) => {
        for (const line of data.split('\n')) {
          if (line === '{}') socket.send('{}');
          const message = JSON.parse(line);
          if (message.push) window.heard.push(message.push);
          if (message.id === 2) done(message);
        }
      };
    });
    await new Promise((done) => { socket.onopen = done; });
    socket.send(JSON.stringify({ id: 1, connect: { name: user } }));
    socket.send(JSON.stringify({ id: 2, subscribe: { channel } }));
    await replies;
  }, [server.url, user, channel]);
}

async function signIn(t, server, options) {
  const page = await openTab(t, browser, options);
  await page.goto(`${server.http}/admin`);
  await page.fill('#login input[type=password]', PASSWORD);
  await page.press('#login input[type=password]', 'Enter');
  await page.waitForSelector('#charts figure');
  return page;
}

async function picture(page, name) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
}

test('nobody comes in without the password, and who signs out is out', async (t) => {
  const server = await start(t);
  const page = await openTab(t, browser);
  await page.goto(`${server.http}/admin/`);
  await page.waitForSelector('#login:not([hidden])');
  await picture(page, 'login');
  await page.fill('#login input[type=password]', 'a guess');
  await page.press('#login input[type=password]', 'Enter');
  await page.getByText('the password is wrong').waitFor();
  assert.equal(await page.locator('#node').isVisible(), false);
  await page.fill('#login input[type=password]', PASSWORD);
  await page.press('#login input[type=password]', 'Enter');
  await page.waitForSelector('#charts figure');
  await page.reload();
  await page.waitForSelector('#charts figure');
  await page.click('#leave');
  await page.waitForSelector('#login:not([hidden])');
  await page.reload();
  await page.waitForSelector('#login:not([hidden])');
});

test('channels and clients are shown, and calls are carried out', async (t) => {
  const server = await start(t);
  const [page, client] = [await signIn(t, server), await openTab(t, browser)];
  await client.goto(`${server.http}/health`);
  await join(client, server, 'anna', 'news');
  await page.waitForFunction(() => document.querySelector('#figures dd').textContent === '1');
  await picture(page, 'node');

  await page.click('nav a[href="#channels"]');
  await page.click('#channel-list button:text-is("news")');
  await page.waitForFunction(() => document.getElementById('channel-answer').textContent.includes('presence'));
  await page.fill('#one-channel textarea', '{"text": "<b>from the page</b>"}');
  await page.click('#one-channel button[value=publish]');
  await client.waitForFunction(() => window.heard.some(({ pub }) => pub?.data.text === '<b>from the page</b>'));
  await page.click('#one-channel button[value=history]');
  await page.waitForFunction(() => document.getElementById('channel-answer').textContent.includes('<b>from the page</b>'));
  await picture(page, 'channels');
  await page.fill('#one-channel textarea', 'no JSON');
  await page.click('#one-channel button[value=publish]');
  await page.waitForSelector('#channel-answer.bad');

  await page.click('nav a[href="#clients"]');
  const row = page.locator('#client-list tr').nth(1);
  await row.getByText('127.0.0.1').waitFor();
  assert.match(await row.textContent(), /websocket/);
  await row.locator('button').first().click();
  await page.waitForFunction(() => document.getElementById('user-answer').textContent.includes('news'));
  await picture(page, 'clients');
  page.on('dialog', (dialog) => dialog.accept());
  await page.click('#one-user button[value=disconnect]');
  assert.equal(await client.evaluate(() => window.over), 3503);
});

test('a channel and a user are watched as messages come', async (t) => {
  const server = await start(t);
  const [page, client] = [await signIn(t, server), await openTab(t, browser)];
  await client.goto(`${server.http}/health`);
  await join(client, server, 'anna', 'news');
  await page.click('nav a[href="#trace"]');
  await page.fill('#watch input[name=channel]', 'news');
  await page.click('#watch button.primary');
  await page.getByText('watching news').waitFor();
  await server.api('publish', { channel: 'news', data: { text: '<i>seen</i>' } });
  const row = page.locator('#trace-list tr').nth(1);
  await row.getByText('<i>seen</i>').waitFor();
  assert.match(await row.textContent(), /publicationnews.*1\{"text":/);
  await picture(page, 'trace');
  await page.click('#stop');
  await page.click('#watch button.primary');
  await page.locator('#trace-list').getByText('Nothing yet.').waitFor();
  await page.fill('#watch input[name=user]', 'anna');
  await page.click('#watch button.primary');
  await page.getByText('name a channel, or a user').waitFor();
});

test('the configuration is shown without its secrets', async (t) => {
  const server = await start(t);
  const page = await signIn(t, server);
  await page.click('nav a[href="#config"]');
  await page.getByText('[admin]').waitFor();
  const text = await page.locator('#config-text').textContent();
  assert.equal(text.includes(PASSWORD), false);
  assert.match(text, /history_size = 10/);
});

for (const [name, options] of [
  ['phone', { viewport: { width: 390, height: 844 } }],
  ['dark', { colorScheme: 'dark' }],
  ['phone-dark', { viewport: { width: 390, height: 844 }, colorScheme: 'dark' }],
]) {
  test(`nothing runs over the edge: ${name}`, async (t) => {
    const server = await start(t);
    const page = await signIn(t, server, options);
    for (const place of ['channels', 'clients', 'trace', 'config', 'node']) {
      await page.click(`nav a[href="#${place}"]`);
      await page.waitForSelector(`section#${place}:not([hidden])`);
      const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= room, `${place}: ${wide} of ${room}`);
      await picture(page, `${name}-${place}`);
    }
    if (options.colorScheme) {
      const color = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(color, 'rgb(13, 20, 23)');
    }
  });
}
