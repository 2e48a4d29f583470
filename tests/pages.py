"""What pages of documentation hold that can be tried: code, commands, and the files that they show."""

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import typer

from analyses.cli import app

USAGE_ERROR = typer.BadParameter.__base__  # click's, or that of typer's own copy of click
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts)  # generated ones are copies


def blocks(page: str, language: str = "python") -> list[str]:
    """The code of a page in a language; blocks that must not run say so behind it: ```python not-run."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def execute(block: str, names: dict) -> int:
    """Run the block's statements, and hold values against the comments that say them; returns how many those are.

    A block that begins with `# NAME.py` is what a file of that name holds, which is written, too."""
    lines, checked = block.splitlines(), 0
    if re.fullmatch(r"# \w+\.py", lines[0]):
        Path(lines[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    for statement in ast.parse(block).body:
        begin = min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ())))
        code = "\n".join(lines[begin - 1 : statement.end_lineno])
        if not isinstance(statement, ast.Expr):
            exec(code, names)
            continue
        value = eval(code.strip(), names)
        said = re.search(r"# (True|False|Int\(.*?\)|array\(.*?\))", code)
        if said:
            expected = eval(said[1], {**names, "array": np.array, "Int": names["vm"].Int if "vm" in names else None})
            equal = np.array_equal(value, expected) if isinstance(expected, np.ndarray) else value == expected
            assert equal, f"{code} gave {value}"
            checked += 1
    return checked


def commands(page: str) -> list[list[str]]:
    """The lines of a page that call the command: shell words without its name and the comment. A line goes on behind a
    backslash at its end. The number of a job, $TASK, is 1."""
    lines = re.findall(r"^(?:    )?cadmus-probe .*", page.replace("\\\n", ""), re.MULTILINE)
    return [shlex.split(line.replace("$TASK", "1"), comments=True)[1:] for line in lines]


def misreading(words: list[str]) -> str:
    """What the command line says against these words, unless it takes all of them; nothing is run."""
    command, rest = typer.main.get_command(app), list(words)
    try:
        while hasattr(command, "commands"):
            name = rest.pop(0)
            command = command.commands[name]
        return " ".join(command.make_context(name, rest).args)
    except (KeyError, IndexError) as error:
        return f"no command {error}"
    except USAGE_ERROR as error:
        return error.format_message()
