"""A TCP proxy on the loopback, to which weather happens: slow, cut off in the middle of an answer, or silent."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

PIECE_BYTES = 16 * 1024
"""Bytes that are carried at a time."""
HANG_UP_HARD = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends a reset in place of what is still held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What happens to all connections of a link. By default nothing."""

    bytes_per_s: int | None = None
    """What passes in each direction of each connection."""
    delay_s: float = 0.0
    """Seconds for which every piece is kept."""
    cut_within_bytes: int | None = None
    """Each connection is reset within so many bytes of answers, at a place that is drawn for it."""
    silent: bool = False
    """Connections are taken, and nothing comes through. What was on its way comes when it is over."""


FAIR = Weather()


class Link:
    """From a port of its own to another one at 127.0.0.1. `cuts` counts the connections that it has reset."""

    def __init__(self, *, listening: int, to: int, seed: int) -> None:
        self.listening, self._to = listening, to
        self.cuts = 0
        self._random = random.Random(seed)
        self._weather = FAIR
        self._changed = asyncio.Condition()

    async def turn(self, weather: Weather) -> None:
        """From now on it is like this, for connections that are open too."""
        async with self._changed:
            self._weather = weather
            self._changed.notify_all()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        carrying = set[asyncio.Task[None]]()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            carrying.add(task)
            with suppress(asyncio.CancelledError):  # by us, at the end; asyncio would log it as an error
                await self._carry(reader, writer)
            carrying.discard(task)

        server = await asyncio.start_server(accepted, "127.0.0.1", self.listening)
        try:
            yield self
        finally:
            server.close()
            for task in [*carrying]:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            _reset(writer)  # as the far side would: nobody listens there
            return
        try:
            ways = [asyncio.create_task(self._way(reader, back, answers=False)), asyncio.create_task(self._way(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                cut = any(way.done() and way.result() for way in ways)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except asyncio.CancelledError:
            cut = True
            raise
        finally:
            for end in (writer, back):
                _reset(end) if cut else end.close()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = True) -> bool:
        """One direction, until its sender hangs up, or the weather cuts it, which is told."""
        carried, cut_at, cutting = 0, 0, None
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._weather.silent)
                weather = self._weather
                if weather.cut_within_bytes != cutting:
                    cutting = weather.cut_within_bytes
                    cut_at = carried + self._random.randrange(cutting or 1)
                if answers and cutting is not None and carried + len(piece) > cut_at:
                    writer.write(piece[: cut_at - carried])
                    await writer.drain()
                    self.cuts += 1
                    return True
                carried += len(piece)
                pause_s = weather.delay_s + (len(piece) / weather.bytes_per_s if weather.bytes_per_s else 0.0)
                if pause_s:
                    await asyncio.sleep(pause_s)
                writer.write(piece)
                await writer.drain()
        return False


def _reset(writer: asyncio.StreamWriter) -> None:
    """Hang up without a farewell, as a machine does that is gone."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HANG_UP_HARD)
    writer.transport.abort()
