// A backend in JavaScript, with what Node has only: signs tokens and publishes. README.md beside it says how to run it.
import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';

const { GANNET_URL: url = 'http://127.0.0.1:8000', TOKEN_SECRET: secret, API_KEY: key, PORT: port = 3000 } = process.env;
const page = readFileSync(new URL('page.html', import.meta.url));

/** A connection token (JWT, HS256). In an application take jose or jsonwebtoken. */
function token(user, seconds = 3600) {
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + seconds };
  const parts = [{ alg: 'HS256', typ: 'JWT' }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'));
  return [...parts, createHmac('sha256', secret).update(parts.join('.')).digest('base64url')].join('.');
}

/** Sends `data` to all who are subscribed to `channel`; what went wrong is thrown. */
async function publish(channel, data) {
  const response = await fetch(`${url}/api/publish`, {
    method: 'POST',
    headers: { 'X-API-Key': key, 'Content-Type': 'application/json' },
    body: JSON.stringify({ channel, data }),
    signal: AbortSignal.timeout(5000),
  });
  if (!response.ok) throw new Error(`publish: status ${response.status}`);
  // An error of the API comes with status 200.
  const { error } = await response.json();
  if (error) throw new Error(`publish: ${error.message}`);
}

async function body(request) {
  let text = '';
  for await (const part of request) {
    text += part;
    if (text.length > 4096) throw new SyntaxError('too long');
  }
  return JSON.parse(text);
}

async function answer(request, response) {
  const asked = new URL(request.url, 'http://backend');
  if (request.method === 'GET' && asked.pathname === '/') {
    return response.setHeader('Content-Type', 'text/html; charset=utf-8').end(page);
  }
  if (request.method === 'GET' && asked.pathname === '/token') {
    // In an application: who is signed in.
    const user = asked.searchParams.get('user') ?? 'anna';
    const socket = `${url.replace('http', 'ws')}/connection/websocket`;
    return response.setHeader('Content-Type', 'application/json').end(JSON.stringify({ token: token(user), url: socket }));
  }
  if (request.method === 'POST' && asked.pathname === '/say') {
    const { user, text } = await body(request);
    await publish('news', { user: String(user), text: String(text) });
    return response.writeHead(204).end();
  }
  response.writeHead(404).end('not found\n');
}

createServer((request, response) => {
  answer(request, response).catch((error) => {
    response.writeHead(error instanceof SyntaxError ? 400 : 502).end(`${error.message}\n`);
  });
}).listen(port, '127.0.0.1');
