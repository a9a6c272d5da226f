"""`shoal bench`, run in this process."""

from __future__ import annotations

from shoal_bench import cli


def bench(*arguments: str) -> int:
    """Runs the command in this process; gives its exit code."""
    code = cli.app(
        list(arguments), result_action="return_value", exit_on_error=False, print_error=False
    )
    assert isinstance(code, int)
    return code
