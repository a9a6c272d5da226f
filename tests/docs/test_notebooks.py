"""The page on notebooks is run in a kernel, each block in a cell, also what a script could not hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import PRINTS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "notebooks.md"


@pytest.mark.slow
def test_the_page_runs_in_a_kernel(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="there is no kernel: `uv sync` installs one")
    cells = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("notebook_kernel.py"))],
        cwd=tmp_path,
        input=json.dumps(cells),
        capture_output=True,
        encoding="utf-8",
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = iter(done.stdout.splitlines())
    for promise in PRINTS.findall("\n".join(cells)):
        assert promise in printed, done.stdout
