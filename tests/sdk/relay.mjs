// A TCP relay in front of the server: what a test cuts a client's connection with, as a lost network
// would. Either side learns of it by its socket and by nothing else.
import net from 'node:net';
import { once } from 'node:events';
import { s } from './server.mjs';

/** A relay to `server`, with the addresses that a client is given. Let go when the test ends. */
export async function openRelay(t, server) {
  const sockets = new Set();
  let open = true;
  const keep = (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    return socket;
  };
  const listener = net.createServer((near) => {
    if (!open) return near.destroy();
    const far = keep(net.connect(server.port, '127.0.0.1'));
    keep(near).pipe(far).pipe(near);
    near.on('close', () => far.destroy());
    far.on('close', () => near.destroy());
  }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address();
  const relay = {
    port,
    http: `http${s}://127.0.0.1:${port}`,
    url: `ws${s}://127.0.0.1:${port}/connection/websocket`,

    /** Cuts every connection; whoever comes again is let through. */
    cut() {
      for (const socket of sockets) socket.destroy();
    },

    /** Cuts every connection and refuses new ones. */
    hold() {
      open = false;
      relay.cut();
    },

    resume() {
      open = true;
    },
  };
  t.after(() => {
    relay.hold();
    listener.close();
  });
  return relay;
}
