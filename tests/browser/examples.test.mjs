// Runs the backends of docs/examples, each with its page in a real browser: tokens that are taken, publications that
// arrive, and what goes wrong told.
import test, { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { API_KEY, SECRET, freePort, startServer, within } from '../sdk/server.mjs';
import { openBrowser, openTab } from './browser.mjs';

const folder = fileURLToPath(new URL('../../docs/examples', import.meta.url));

let browser;
let built;
before(async () => {
  browser = await openBrowser();
  // Built, and not run by `go run`, whose program would outlive it.
  built = mkdtempSync(path.join(tmpdir(), 'gannet-examples-'));
  const go = spawnSync('go', ['build', '-o', path.join(built, 'backend'), 'backend.go'], { cwd: folder, encoding: 'utf8' });
  assert.equal(go.status, 0, go.stderr);
});
after(async () => {
  await browser?.close();
  if (built) rmSync(built, { recursive: true });
});

/** A backend that answers, stopped when the test ends; its address. */
async function startBackend(t, [program, ...args], port, env) {
  const child = spawn(program, args, { cwd: folder, env: { ...process.env, ...env, PORT: String(port) }, stdio: ['ignore', 'ignore', 'pipe'] });
  const exit = once(child, 'exit');
  let said = '';
  child.stderr.on('data', (text) => { said += text; });
  t.after(async () => {
    child.kill('SIGKILL');
    await exit;
  });
  const url = `http://127.0.0.1:${port}`;
  const answers = async () => {
    while (child.exitCode === null) {
      const answer = await fetch(url).catch(() => undefined);
      if (answer?.ok) return;
      await new Promise((done) => { setTimeout(done, 50); });
    }
    throw new Error(`the backend ended: ${said}`);
  };
  await within(answers(), `${program} answers`, 30_000);
  return url;
}

const backends = {
  Python: () => ['python3', 'backend.py'],
  Node: () => ['node', 'backend.mjs'],
  Go: () => [path.join(built, 'backend')],
  PHP: (port) => ['php', '-S', `127.0.0.1:${port}`, 'backend.php'],
};

for (const [name, command] of Object.entries(backends)) {
  test(`${name}: the page connects by its token and hears what is said`, async (t) => {
    const port = await freePort();
    const server = await startServer(t, [
      '--client.allowed_origins', `http://127.0.0.1:${port}`, '--channel.without_namespace.allow_subscribe_for_client',
    ]);
    const env = { GANNET_URL: server.http, TOKEN_SECRET: SECRET, API_KEY };
    const url = await startBackend(t, command(port), port, env);
    const [anna, bob] = [await openTab(t, browser), await openTab(t, browser)];
    for (const [page, user] of [[anna, 'anna'], [bob, 'bob & co']]) {
      await page.goto(`${url}/?user=${encodeURIComponent(user)}`);
      await page.getByText(`subscribed as ${user}`, { exact: true }).waitFor();
    }
    await anna.fill('input', '<b>grüße</b> ☃');
    await anna.press('input', 'Enter');
    for (const page of [anna, bob]) await page.getByText('anna: <b>grüße</b> ☃', { exact: true }).waitFor();
    const bad = await fetch(`${url}/say`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{' });
    assert.equal(bad.status, 400);
  });

  test(`${name}: a refusal of the API is told`, async (t) => {
    const port = await freePort();
    const server = await startServer(t, ['--client.allowed_origins', `http://127.0.0.1:${port}`]);
    const url = await startBackend(t, command(port), port, { GANNET_URL: server.http, TOKEN_SECRET: SECRET, API_KEY: 'another' });
    const body = JSON.stringify({ user: 'anna', text: 'hello' });
    const answer = await fetch(`${url}/say`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    assert.equal(answer.status, 502, await answer.text());
  });
}
