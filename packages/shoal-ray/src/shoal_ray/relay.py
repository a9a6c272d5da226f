"""A driver's actor inside the cluster, made when it is first needed. It never computes, and asks for no CPU.

It serves all runners of its driver for as long as Ray is there: a process of its own takes a second to start.

    gates     a worker whose run waits blocks in `ray.get` on one, so that Ray gives its CPU to others
    lent      references reach a worker outside the arguments of a task
    values    `future.native` of a run that has not ended
    bus       Ray Client: workers cannot reach the driver, so they connect to here, and the driver asks for what they say

Runs on Ray's side: may import `door`, and of the core nothing but `serialization`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from shoal_ray.door import Door, Guest

__all__ = ["GONE", "JOINED", "Relay"]

#: Instead of a kind of message: a worker has come, or gone.
JOINED = -1
GONE = -2


class Relay:
    """See the module."""

    def __init__(self) -> None:
        self._events: dict[Any, asyncio.Event] = {}
        self._lent: dict[Any, list[Any]] = {}
        self._ended: dict[int, tuple[BaseException | None, Any]] = {}
        self._buses: dict[str, _Bus] = {}

    def _event(self, key: Any) -> asyncio.Event:
        event = self._events.get(key)
        if event is None:
            event = self._events[key] = asyncio.Event()
        return event

    async def _once(self, key: Any) -> None:
        """Waits for an event that nobody else waits for."""
        await self._event(key).wait()
        self._events.pop(key, None)

    async def is_there(self) -> bool:
        """Whether it has started: it has."""
        return True

    # ------------------------------------------------------------------ gates

    async def wait(self, key: str) -> None:
        """Ends once the gate was opened."""
        await self._once(key)

    async def open(self, key: str) -> None:
        """Opens a gate, once; also before somebody waits there."""
        self._event(key).set()

    # ------------------------------------------------------------------ references

    async def lend(self, key: Any, references: list[Any]) -> None:
        """Has references ready for whoever asks for them."""
        self._lent[key] = references
        self._event(key).set()

    async def borrow(self, key: Any) -> list[Any]:
        """Gives them, as soon as they were lent."""
        await self._once(key)
        return self._lent.pop(key)

    # ------------------------------------------------------------------ values

    async def value(self, number: int) -> Any:
        """The value of a run, or its error, as soon as it has ended."""
        await self._once(number)
        error, value = self._ended.pop(number)
        if error is not None:
            raise error
        if isinstance(value, list):  # a reference, in a list lest Ray fetches it
            return await value[0]
        return value[0]

    async def ended(self, number: int, error: BaseException | None, value: Any) -> None:
        """A run has ended.

        Args:
            number: of the run.
            error: if it failed.
            value: in a tuple, or in a list the reference of a large one.
        """
        self._ended[number] = (error, value)
        self._event(number).set()

    # ------------------------------------------------------------------ the bus of Ray Client

    async def listen(self, session: str, secret: bytes) -> tuple[str, int]:
        """Lets workers connect to a session.

        Returns:
            Host and port.
        """
        bus = self._buses[session] = _Bus(secret)
        return await bus.listen()

    async def up(self, session: str) -> list[tuple[int, int, bytes]]:
        """What workers have said since the last time, as soon as there is something: connection, kind, body."""
        bus = self._buses.get(session)
        return await bus.up() if bus is not None else []

    async def down(self, session: str, sayings: list[tuple[int, int, bytes]]) -> None:
        """Sends to workers."""
        bus = self._buses.get(session)
        if bus is not None:
            bus.down(sayings)

    async def leave(self, session: str) -> None:
        """Hangs up on the workers of a session, and lets go of what it lent and nobody has asked for."""
        for key in [key for key in self._lent if str(key).startswith(f"{session}-")]:
            del self._lent[key]
            self._events.pop(key, None)
        bus = self._buses.pop(session, None)
        if bus is not None:
            bus.close()


class _Bus:
    """Connections of the workers of one session.

    Args:
        secret: see `wire`.
    """

    def __init__(self, secret: bytes) -> None:
        self._door = Door(secret, lambda door: _Rider(door, self))
        self._riders: dict[int, _Rider] = {}
        self._said: list[tuple[int, int, bytes]] = []
        self._news = asyncio.Event()
        self._connections = 0

    async def listen(self) -> tuple[str, int]:
        """See `Relay`."""
        import ray

        return self._door.open(ray.util.get_node_ip_address())

    async def up(self) -> list[tuple[int, int, bytes]]:
        """See `Relay`."""
        await self._news.wait()
        self._news.clear()
        said, self._said = self._said, []
        return said

    def down(self, sayings: list[tuple[int, int, bytes]]) -> None:
        """See `Relay`."""
        for connection, kind, body in sayings:
            rider = self._riders.get(connection)
            if rider is None:
                continue
            if kind == GONE:
                rider.hang_up()
            else:
                rider.write(kind, body)

    def close(self) -> None:
        """Hangs up on all."""
        self._door.close()
        for rider in self._riders.values():
            rider.hang_up()
        self._news.set()

    def joined(self, rider: _Rider) -> int:
        """A worker has connected; its number."""
        self._connections += 1
        self._riders[self._connections] = rider
        self.say(self._connections, JOINED)
        return self._connections

    def gone(self, connection: int) -> None:
        """It has hung up."""
        del self._riders[connection]
        self.say(connection, GONE)

    def say(self, connection: int, kind: int, body: bytes = b"") -> None:
        """A worker says something."""
        self._said.append((connection, kind, body))
        self._news.set()


class _Rider(Guest):
    """A connection to a bus."""

    _number: int

    def __init__(self, door: Door, bus: _Bus) -> None:
        super().__init__(door)
        self._bus = bus

    def joined(self) -> None:
        """See `Guest`."""
        self._number = self._bus.joined(self)

    def heard(self, kind: int, body: bytes) -> None:
        """See `Guest`."""
        self._bus.say(self._number, kind, body)

    def gone(self) -> None:
        """See `Guest`."""
        self._bus.gone(self._number)
