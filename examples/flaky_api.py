"""Requests to a server that is often busy: repeated until it answers."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from shoal import State, flow, task, unmapped
from shoal.states import get_state_exception


def is_busy(task: object, run: object, state: State[Any]) -> bool:
    """Whether another attempt makes sense: not if there is no such item."""
    error = get_state_exception(state)
    return isinstance(error, HTTPError) and error.code == 503


@task(
    retries=4,
    retry_delay_seconds=[0.02, 0.05, 0.1, 0.2],
    retry_jitter_factor=0.5,  # so that not all come back at once
    retry_condition_fn=is_busy,
    timeout_seconds=10,
)
def price(server: str, item: int) -> int:
    try:
        with urlopen(f"{server}/items/{item}", timeout=5) as answer:
            return int(answer.read())
    except HTTPError as error:
        error.close()
        raise


@flow(task_runner="threads:8")  # so many requests at once, and no more
def prices(server: str, count: int) -> dict[int, int]:
    """Asks for the prices of items. Returns those that it got, by item."""
    runs = price.map(unmapped(server), range(count))
    runs.wait()
    done = [n for n, run in enumerate(runs) if run.state.is_completed()]
    return {n: runs[n].result() for n in done}


REQUESTS: Counter[str] = Counter()  # by path


class Shop(BaseHTTPRequestHandler):
    """Is busy at first for every third item, and has no item 13."""

    def do_GET(self) -> None:
        item = int(self.path.rpartition("/")[2])
        REQUESTS[self.path] += 1
        busy = item % 3 == 0 and REQUESTS[self.path] <= 2
        self.send_response(503 if busy else 404 if item == 13 else 200)
        self.end_headers()
        self.wfile.write(str(10 * item).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the flow tells enough."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever).start()
        found = prices(f"http://127.0.0.1:{server.server_port}", 50)
        server.shutdown()

    print(len(found), "prices,", REQUESTS.total(), "requests")
    # prints: 49 prices, 84 requests
    assert found == {n: 10 * n for n in range(50) if n != 13}
