"""The page's modules outside the page: `ask` runs a task of tasks.mjs under Node; tests skip where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node") or shutil.which("nodejs")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed (Debian: apt-get install nodejs)")


def ask(task: str, data: Any) -> Any:
    """What the task answers. Raises AssertionError, with what Node says, where it fails."""
    assert NODE is not None
    command = [NODE, str(HERE / "node.mjs"), task]
    result = subprocess.run(command, input=json.dumps(data), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)
