// A peer: ws on Node as its own examples use it, in echo and fan-out mode.
// The command line is that of the peers in Rust.

import { parseArgs } from 'node:util';
import { WebSocket, WebSocketServer } from 'ws';

const { values } = parseArgs({ options: { port: { type: 'string' }, mode: { type: 'string', default: 'echo' } } });
const port = Number(values.port);
if (!(port > 0 && port < 65536) || !['echo', 'fanout'].includes(values.mode)) {
  console.error('usage: server.mjs --port PORT [--mode echo|fanout]');
  process.exit(2);
}

const server = new WebSocketServer({ host: '127.0.0.1', port, perMessageDeflate: false });

server.on('connection', (socket, request) => {
  // A client that goes without a close frame is no news here.
  socket.on('error', () => {});
  if (values.mode === 'echo') {
    socket.on('message', (data, binary) => socket.send(data, { binary }));
  } else if (request.url === '/pub') {
    socket.publisher = true;
    socket.on('message', publish);
  }
});

server.on('error', (error) => {
  console.error(`ws: ${error.message}`);
  process.exit(1);
});

function publish(data, binary) {
  for (const client of server.clients) {
    if (!client.publisher && client.readyState === WebSocket.OPEN) client.send(data, { binary });
  }
}
