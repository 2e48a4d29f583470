"""Workers that a script starts without a main guard end with the reason, in one line."""

import subprocess
import sys

import pytest

SCRIPTS = {
    "a corpus": "build(mixture.load('first'), 2000, workers=2)",
    "a corpus on disk": "build(mixture.load('first'), 2000, folder='c', workers=2)",
    "a stream": "next(stream_programs(mixture.load('first'), workers=2))",
}
IMPORTS = """
from cadmus.corpora.build import build
from cadmus.corpora.shards import stream_programs
from cadmus.programs import mixture
"""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_without_a_guard_is_told_so(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(IMPORTS + SCRIPTS[name])
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.count("Traceback") == 1  # that of the script itself
    assert 'put its work under `if __name__ == "__main__":`' in run.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] in (["script.py"], ["c", "script.py"], ["script.py", "c"])
