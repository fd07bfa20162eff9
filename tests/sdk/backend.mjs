// The application's backend, as proxies ask it: a small HTTP server that answers by path.
import http from 'node:http';
import { once } from 'node:events';

/**
 * A running backend; let go when the test ends. `answers` are functions by path, such as
 * `subscribe: ({ user }, headers) => ({ result: {} })`; a number is an HTTP status. All questions are
 * kept in `asked`.
 */
export async function startBackend(t, answers) {
  const asked = [];
  const listener = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const question = JSON.parse(Buffer.concat(parts).toString());
    const path = request.url.slice(1);
    asked.push({ path, ...question });
    const answer = await answers[path]?.(question, request.headers) ?? 404;
    if (typeof answer === 'number') return response.writeHead(answer).end();
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
  }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    listener.closeAllConnections();
    listener.close();
  });
  const url = `http://127.0.0.1:${listener.address().port}`;
  return {
    url,
    asked,
    /** The questions of one path. */
    of: (path) => asked.filter((question) => question.path === path),
    /** The options that name it as the proxy `name`, such as `channel.proxy.subscribe`. */
    as: (name, path = name.split('.').at(-1)) => [`--${name}.endpoint`, `${url}/${path}`],
  };
}
