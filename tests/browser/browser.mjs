// Starts one headless Chromium for a test file. Each page is its own tab with its own session; what
// a page throws fails the test it belongs to.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const executablePath = process.env.CHROMIUM
  ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

/** Chromium refuses its sandbox to root, and the pages are our own. */
export const openBrowser = () =>
  chromium.launch({ executablePath, headless: true, chromiumSandbox: false, args: ['--no-proxy-server'] });

/** A new tab, closed when the test ends. */
export async function openTab(t, browser, options = {}) {
  const session = await browser.newContext(options);
  const page = await session.newPage();
  page.setDefaultTimeout(15_000);
  const thrown = [];
  page.on('pageerror', (error) => thrown.push(error));
  t.after(async () => {
    await session.close();
    assert.deepEqual(thrown, [], 'errors thrown in the page');
  });
  return page;
}
