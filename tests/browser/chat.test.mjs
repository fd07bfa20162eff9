// Proves in a real browser that two tabs of the chat page talk: rooms, private messages, a server
// that dies and comes back, and that what people write is shown as text.
import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { startServer } from '../sdk/server.mjs';
import { openBrowser, openTab } from './browser.mjs';

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser?.close());

/** A tab in the chat under this nickname, connected. */
async function enter(t, server, nick, options) {
  const page = await openTab(t, browser, options);
  await page.goto(server.http);
  await page.fill('#hello input', nick);
  await page.press('#hello input', 'Enter');
  await page.waitForSelector('#state[data-state=connected]');
  return page;
}

async function say(page, text) {
  await page.fill('#composer textarea', text);
  await page.press('#composer textarea', 'Enter');
}

/** Waits for a message and gives its author. */
async function hears(page, text) {
  const message = page.locator('#messages li', { has: page.getByText(text, { exact: true }) });
  await message.waitFor();
  assert.equal(await message.count(), 1, `"${text}" is shown once`);
  return message.locator('.author').textContent();
}

const enterRoom = async (page, name) => {
  await page.fill('#new-room input', name);
  await page.press('#new-room input', 'Enter');
  await page.waitForFunction((title) => document.getElementById('place').textContent === title, `# ${name}`);
};

const chat = (t, options) => startServer(t, ['--dev'], options);

test('two tabs exchange messages both ways', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  await say(alice, 'hello from alice');
  assert.equal(await hears(bob, 'hello from alice'), 'alice');
  assert.equal(await hears(alice, 'hello from alice'), 'alice');
  await say(bob, 'grüße von bob ☃');
  assert.equal(await hears(alice, 'grüße von bob ☃'), 'bob');
  assert.equal(await alice.locator('#messages time').first().isVisible(), true);
});

test('a room of its own, unread counts, and nothing from rooms one is not in', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  await enterRoom(alice, 'garden');
  await enterRoom(bob, 'garden');
  await say(alice, 'roses');
  assert.equal(await hears(bob, 'roses'), 'alice');
  await bob.click('[data-channel=room-lobby]');
  assert.equal(await bob.getByText('roses').count(), 0);
  await say(alice, 'tulips');
  await bob.waitForSelector('[data-channel=room-garden] .badge:has-text("1")');
  assert.equal(await bob.title(), '(1) Gannet chat');
  await bob.click('[data-channel=room-garden]');
  await hears(bob, 'tulips');
  await hears(bob, 'roses');
  assert.equal(await bob.locator('.badge').count(), 0);
  assert.equal(await bob.title(), 'Gannet chat');
});

test('a private message reaches one person only, who can answer', async (t) => {
  const server = await chat(t);
  const [alice, bob, carol] = [
    await enter(t, server, 'alice'), await enter(t, server, 'Bob'), await enter(t, server, 'carol')];
  await alice.fill('#new-private input', 'bob');
  await alice.press('#new-private input', 'Enter');
  await say(alice, 'only for you');
  await hears(alice, 'only for you');
  await bob.click('[data-channel=pm-alice-bob]:has(.badge:has-text("1"))');
  assert.equal(await hears(bob, 'only for you'), 'alice');
  await say(bob, 'thank you');
  assert.equal(await hears(alice, 'thank you'), 'Bob');
  await say(alice, 'once more');
  await hears(bob, 'once more');
  assert.equal(await carol.locator('[data-channel^=pm-]').count(), 0);
  assert.equal(await carol.locator('.badge').count(), 0);
});

test('HTML is shown as text, in messages, rooms and nicknames', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  const evil = '<img src=x onerror="window.harmed=1"><b>bold</b><script>window.harmed=1</script>';
  await say(alice, evil);
  assert.equal(await hears(bob, evil), 'alice');
  assert.equal(await bob.locator('#messages img, #messages b, #messages script').count(), 0);

  // Past the page's own checks: what any client or backend could publish.
  const publish = (data) => server.api('publish', { channel: 'room-lobby', data });
  await publish({ id: '1', from: '<i>eve</i>', text: 'an author that is no nickname' });
  await publish({ id: '2', from: 'eve', text: { toString: 'not text' } });
  await publish(7);
  await publish({ id: '3', from: 'eve', text: `<svg onload="window.harmed=1">` });
  assert.equal(await hears(bob, '<svg onload="window.harmed=1">'), 'eve');
  assert.equal(await bob.locator('#messages li').count(), 2);
  for (const page of [alice, bob]) assert.equal(await page.evaluate(() => window.harmed), undefined);
});

test('a killed server is noticed, and after its return messages flow again', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  await enterRoom(alice, 'garden');
  await enterRoom(bob, 'garden');
  await server.stop('SIGKILL');
  for (const page of [alice, bob]) {
    await page.waitForSelector('#state[data-state=connecting]');
  }
  // What is written meanwhile waits, through a reload too.
  await say(alice, 'written while it was away');
  await alice.getByText('A message waits for a connection.').waitFor();
  const second = await chat(t, { port: server.port });
  for (const page of [alice, bob]) await page.waitForSelector('#state[data-state=connected]');
  for (const page of [alice, bob]) assert.equal(await hears(page, 'written while it was away'), 'alice');
  assert.equal(await alice.textContent('#waiting'), '');
  await say(alice, 'still there?');
  assert.equal(await hears(bob, 'still there?'), 'alice');

  await second.stop('SIGTERM');
  for (const page of [alice, bob]) await page.waitForSelector('#state[data-state=connecting]');
  await chat(t, { port: server.port });
  for (const page of [alice, bob]) await page.waitForSelector('#state[data-state=connected]');
  await say(bob, 'yes');
  assert.equal(await hears(alice, 'yes'), 'bob');
});

test('offline is told at once, and what was written then is sent later', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  await alice.context().setOffline(true);
  await alice.getByText('offline', { exact: true }).waitFor();
  await say(alice, 'one');
  await say(alice, 'two');
  await alice.getByText('2 messages wait for a connection.').waitFor();
  await alice.context().setOffline(false);
  for (const text of ['one', 'two']) assert.equal(await hears(bob, text), 'alice');
  await alice.waitForFunction(() => document.getElementById('waiting').textContent === '');
});

test('rooms have names in any script', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  for (const [name, shown] of [['Привет мир', 'привет-мир'], ['日本語', '日本語'], ['Käse & Brot', 'käse-brot']]) {
    for (const page of [alice, bob]) {
      await page.fill('#new-room input', name);
      await page.press('#new-room input', 'Enter');
      await page.waitForFunction((title) => document.getElementById('place').textContent === title, `# ${shown}`);
    }
    await say(alice, `in ${name}`);
    assert.equal(await hears(bob, `in ${name}`), 'alice');
  }
  await bob.reload();
  await bob.waitForSelector('#state[data-state=connected]');
  assert.equal(await bob.textContent('#place'), '# käse-brot');
});

test('who comes later sees what was said and who is here', async (t) => {
  const server = await chat(t);
  const alice = await enter(t, server, 'alice');
  await alice.getByText('Nobody else is here yet.').waitFor();
  await say(alice, 'first');
  await say(alice, 'second');
  await hears(alice, 'second');
  await server.api('publish', { channel: 'room-lobby', data: { from: 'eve', text: 'by the API' } });
  await hears(alice, 'by the API');
  const bob = await enter(t, server, 'bob');
  for (const text of ['first', 'second']) assert.equal(await hears(bob, text), 'alice');
  await hears(bob, 'by the API');
  const order = await bob.locator('#messages .text').allTextContents();
  assert.deepEqual(order, ['first', 'second', 'by the API']);
  assert.equal(await bob.locator('.badge').count(), 0, 'what is old is not unread');
  await bob.getByText('Here: bob, alice').waitFor();
  await alice.getByText('Here: alice, bob').waitFor();
  await bob.context().close();
  await alice.getByText('Nobody else is here yet.').waitFor();
});

test('a message to who is not here is answered so, and waits for them', async (t) => {
  const server = await chat(t);
  const alice = await enter(t, server, 'alice');
  await alice.fill('#new-private input', 'bob');
  await alice.press('#new-private input', 'Enter');
  await say(alice, 'are you there?');
  await alice.getByText('bob is not here. Who comes within ten minutes sees what was written.').waitFor();
  const bob = await enter(t, server, 'bob');
  await bob.click('[data-channel=pm-alice-bob]:has(.badge:has-text("1"))');
  assert.equal(await hears(bob, 'are you there?'), 'alice');
  await bob.reload();
  await bob.waitForSelector('#state[data-state=connected]');
  assert.equal(await hears(bob, 'are you there?'), 'alice');
  await say(bob, 'now I am');
  assert.equal(await hears(alice, 'now I am'), 'bob');
});

test('a reload keeps the nickname and the rooms', async (t) => {
  const server = await chat(t);
  const [alice, bob] = [await enter(t, server, 'alice'), await enter(t, server, 'bob')];
  await enterRoom(alice, 'garden');
  await alice.reload();
  await alice.waitForSelector('#state[data-state=connected]');
  assert.equal(await alice.textContent('#place'), '# garden');
  assert.equal(await alice.textContent('#nick'), 'alice');
  await enterRoom(bob, 'garden');
  await say(bob, 'welcome back');
  assert.equal(await hears(alice, 'welcome back'), 'bob');
});

test('the page works on a small dark screen, and its log is announced', async (t) => {
  const server = await chat(t);
  const page = await enter(t, server, 'alexandra_the_great_1234', { viewport: { width: 360, height: 640 }, colorScheme: 'dark' });
  assert.equal(await page.locator('#places').isVisible(), false);
  await page.click('#menu');
  await page.click('[data-channel=room-random]');
  assert.equal(await page.locator('#places').isVisible(), false);
  await say(page, 'small');
  await hears(page, 'small');
  const log = page.getByRole('log');
  await page.waitForFunction(() => document.getElementById('log').getAttribute('aria-live') === 'polite');
  assert.equal(await log.count(), 1);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 360, `no sideways scrolling, but ${width} px`);
  // The nickname gives way, and what one writes with does not.
  for (const part of ['#me', '#composer button']) {
    const { x, width: wide } = await page.locator(part).boundingBox();
    assert.ok(x >= 0 && x + wide <= 360, `${part} is seen whole`);
  }
});

test('the page is served in --dev only', async (t) => {
  const [dev, plain] = [await chat(t), await startServer(t)];
  const page = await fetch(dev.http);
  assert.equal(page.status, 200);
  assert.match(page.headers.get('content-type'), /^text\/html/);
  assert.equal((await fetch(plain.http)).status, 404);
});
