"""A TCP proxy that stands between Redis and its clients and misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a RST, as the kernel of a host does that knows nothing of the connection."""


class Proxy:
    """Forwards connections to ``127.0.0.1:target``; its faults are ``stall``, ``swallow`` and ``cut``, until ``heal``.

    After ``swallow`` the connections that were there, and those made meanwhile, stay dead for ever without a word: both
    sides believe that they are alive (half open). After ``stall`` everything arrives late.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.mode = "pass"
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self._thread.start()
        self._server: asyncio.Server = self._do(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # only the end of the proxy cancels
                await link.run()
        finally:
            self._links.discard(link)

    # -- faults --------------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Keep what both sides send until :meth:`heal`."""
        self._do(self._set("stall"))

    def swallow(self) -> None:
        """Let what both sides send vanish; connections that are there, or are made from now on, never live again."""
        self._do(self._set("swallow"))

    def cut(self) -> None:
        """Reset every connection, and each new one."""
        self._do(self._set("cut"))

    def heal(self) -> None:
        """Forward again."""
        self._do(self._set("pass"))

    async def _set(self, mode: str) -> None:
        self.mode = mode
        for link in list(self._links):
            link.heed(mode)

    def close(self) -> None:
        """End it."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Link:
    """One client's connection and its counterpart at Redis."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self.far: asyncio.StreamWriter | None = None
        self.dead = False
        self.flows = asyncio.Event()
        self.heed(proxy.mode)

    def heed(self, mode: str) -> None:
        """Take the proxy's mode over."""
        self.dead = self.dead or mode == "swallow"
        self.flows.set() if mode != "stall" else self.flows.clear()
        if mode == "cut":
            self.reset()

    def reset(self) -> None:
        """End both connections without a farewell."""
        for writer in (self.writer, self.far):
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()

    async def run(self) -> None:
        """Forward until one side ends."""
        if self.proxy.mode == "cut":
            self.reset()
            return
        await self.flows.wait()
        try:
            reader, self.far = await asyncio.open_connection("127.0.0.1", self.proxy.target)
        except OSError:
            self.reset()
            return
        try:
            await asyncio.gather(self._flow(self.reader, self.far), self._flow(reader, self.writer))
        finally:
            for writer in (self.writer, self.far):
                writer.close()

    async def _flow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.flows.wait()
                if not self.dead:
                    writer.write(data)
                    await writer.drain()
        if self.dead:  # the other side must not learn of it
            await asyncio.Event().wait()
        writer.close()
