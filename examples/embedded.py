"""A service inside another Trio program, which owns it and outlives it.

The program counts words in the background; the service is how others hand it
work. The service stands in the program's nursery like any other task: it is
tried again while its port is taken, drained when the program ends, and knows nothing
of signals or logs.

    $ python examples/embedded.py
    $ curl -d 'to be or not to be' http://127.0.0.1:7030/count
    $ curl -X POST http://127.0.0.1:7030/stop
"""

from __future__ import annotations

from collections import Counter

import trio

import oread

QUEUED = 100
"""Texts that may wait; beyond it callers are told that the program is busy."""
ATTEMPTS = 4
"""At binding the port: 1, 2 and 4 seconds apart."""
DRAIN_SECONDS = 5.0


class Program:
    """The program around the service."""

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        self.stopping = trio.Event()
        self._texts, self._queued = trio.open_memory_channel[str](QUEUED)

    def make_registry(self) -> oread.Registry:
        """Return what others may ask of the program."""
        registry = oread.Registry()

        @registry.on("count", methods=("POST",))
        def count(text: str) -> None:
            try:
                self._texts.send_nowait(text)
            except trio.WouldBlock:
                raise oread.Busy("too many texts are waiting") from None

        @registry.on("words", methods=("GET",))
        def words() -> dict[str, int]:
            return dict(self.words.most_common(10))

        @registry.on("stop", methods=("POST",))
        def stop() -> None:
            self.stopping.set()

        return registry

    async def count_words(self) -> None:
        """Count what was handed in, until nothing more can come."""
        async for text in self._queued:
            self.words.update(text.split())
            await trio.lowlevel.checkpoint()

    async def serve(
        self, port: int, *, task_status: trio.TaskStatus[oread.Endpoint] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the program stops; while the port is taken, try again."""
        registry = self.make_registry()
        async with self._texts:  # closed behind the last handler, so that the counting ends
            for attempt in range(ATTEMPTS):
                try:
                    async with oread.open_service(registry, f"http://127.0.0.1:{port}") as service:
                        task_status.started(service.endpoints[0])
                        await self.stopping.wait()
                        await service.drain(DRAIN_SECONDS)
                        return
                except OSError:
                    if attempt == ATTEMPTS - 1:
                        raise
                await trio.sleep(2**attempt)

    async def run(
        self, port: int, *, task_status: trio.TaskStatus[oread.Endpoint] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run everything; end when told to, with nothing left uncounted."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.count_words)
            task_status.started(await nursery.start(self.serve, port))


async def main(port: int = 7030) -> None:
    """Run the program, and print what it has counted."""
    program = Program()
    await program.run(port)
    print(program.words.most_common(3))


if __name__ == "__main__":
    trio.run(main)
