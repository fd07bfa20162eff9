"""A TCP relay in front of the server: cuts a client's connection as a lost network would."""

import asyncio
import contextlib

from server import S


class Relay:
    """To be used as a context around what it relays; `url` is what a client is given."""

    def __init__(self, server):
        self._to = server.port
        self._open = True
        self._writers = set()

    async def __aenter__(self):
        self._listener = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"ws{S}://127.0.0.1:{port}/connection/websocket"
        return self

    async def __aexit__(self, *_):
        self.hold()
        self._listener.close()

    def hold(self):
        """Cuts every connection and refuses new ones."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def resume(self):
        self._open = True

    async def _relay(self, reader, writer):
        if not self._open:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            for one in both:
                one.transport.abort()
            self._writers -= both

    @staticmethod
    async def _pump(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
