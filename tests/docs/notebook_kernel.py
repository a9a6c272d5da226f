"""Runs cells, a JSON list on standard input, in a Jupyter kernel, and prints what they print: a script of its own,
because the client of a kernel keeps sockets and threads. Ends with 1 at the first error.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SECONDS = 40  # for one cell


def main() -> None:
    from jupyter_client.manager import start_new_kernel

    def show(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            print(content["text"], end="")
        elif message["msg_type"] == "error":
            print(*content["traceback"], sep="\n")

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        for cell in json.load(sys.stdin):
            reply = client.execute_interactive(cell, output_hook=show, timeout=SECONDS)
            if reply["content"]["status"] != "ok":
                sys.exit(1)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
