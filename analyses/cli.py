"""`cadmus-probe`: parse, call, print where the results lie. Heavy packages load inside the commands that need them."""

from __future__ import annotations

import errno
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from analyses.commands.data import data
from analyses.commands.doctor import doctor
from analyses.commands.explorer import explorer
from analyses.commands.help import PlainHelp
from analyses.commands.instruments import instruments
from analyses.commands.machine import machine
from analyses.commands.options import NoEmptyValues
from analyses.commands.process import CUT_OFF, end_on_signals, interrupted_status, keep_streams, say
from analyses.commands.prompts import prompts
from analyses.commands.studies import studies
from analyses.commands.sweeps import sweeps
from analyses.commands.terminal import paragraphs
from analyses.commands.training import training


class Commands(PlainHelp, NoEmptyValues):
    """All commands: their help is shown as it is written, and no value is empty."""


_NO_MEMORY = (  # what errors of libraries say that have no class of their own
    "failed to map segment",
    "can't allocate memory",
    "out of memory",
    "can't start new thread",
)

app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    epilog="Exit code: 0 done, 1 a self-test failed, 2 error (one line on standard error), 130 interrupted (143 by "
    "SIGTERM), 141 the reader of its output is gone.",
)
app.add_typer(machine)
app.add_typer(doctor)
app.add_typer(training)
app.add_typer(studies)
app.add_typer(instruments)
app.add_typer(explorer)
app.add_typer(sweeps)
app.add_typer(data, name="data")
app.add_typer(prompts, name="prompts")


def _print_version(asked_for: bool) -> None:
    """The callback of --version."""
    if asked_for:
        print(f"cadmus-probe {metadata.version('cadmus-probe')}")
        raise typer.Exit


@app.callback(
    help=paragraphs(
        """
        Train small transformers on programs of the Cadmus machine, and read the machine's state out of them.

        Start with cadmus-probe report: all that is known of the model that ships, on one HTML page (eight to
        fifteen minutes on two cores; with --quick a first look).
        """
    )
)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; any place will do.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options for the help; `main` takes --debug out of the arguments, wherever it stands."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 2 after an error, with one line on standard error; 130 after Ctrl-C,
    143 after SIGTERM."""
    # Read when torch loads: threads that wait for each other spin only briefly, then sleep. With libgomp's own setting
    # training took 10 times as long beside another busy process; alone it is as fast either way.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    if sys.stdout is None:
        return _fail("standard output is closed, so that nothing could be told; redirect it to a file, or /dev/null")
    try:
        code = app(arguments, prog_name="cadmus-probe", standalone_mode=False)
        sys.stdout.flush()  # here, where it can be told that the disk is full
    except typer.exceptions.TyperException as error:  # usage: unknown options, bad values
        if debug:
            raise
        command = " ".join(_command(arguments))
        message = error.format_message() or "no command is named"  # of a group alone, whose help is printed
        return _fail(f"{message} (see cadmus-probe {command} --help)".replace("  ", " "))
    except Exception as error:
        if debug:
            raise
        return _fail(_describe(error))
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:  # typer's own, after a pipe was cut off; and of a shell that asks for completions
        if end.code != 1:
            raise
        return CUT_OFF
    if code == 130:
        code = interrupted_status()
        # Python remembers an interruption that passed an exec of text (a dataclass being made), and would end a module
        # run by -m with SIGINT, whatever its exit code; another exec makes it forget.
        exec("")
        say("cadmus-probe: interrupted; nothing unfinished has a final name, run the command again")
    return code if isinstance(code, int) else 0


def _command(arguments: list[str]) -> list[str]:
    """The words of the arguments that name a command, `train` or `data build`; empty where they name none."""
    group = typer.main.get_command(app)
    words: list[str] = []
    for argument in arguments:
        commands = getattr(group, "commands", {})
        if argument not in commands:
            break
        group = commands[argument]
        words.append(argument)
    return words


def _describe(error: Exception) -> str:
    """What happened, to which file, and the remedy; the error's own text where it has both; else that it is a bug."""
    if _is_out_of_memory(error):
        return "out of memory; ask for fewer programs, or free some memory"
    if isinstance(error, OverflowError):
        return f"a number is too large ({error}); ask for fewer programs, or smaller numbers"
    if not isinstance(error, (ValueError, OSError, FloatingPointError)):
        return f"{type(error).__name__}: {error} (this is a bug in cadmus-probe; --debug shows where)"
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    remedy = {
        "ENOSPC": "free some space or choose another --out",
        "EDQUOT": "free some space or choose another --out",
        "EFBIG": "raise the file size limit or choose another --out",
        "EACCES": "choose a place that you may write to",
        "EPERM": "choose a place that you may write to",
        "EROFS": "choose a place that you may write to",
        "ENOTDIR": "a file stands where a folder is needed; choose another path",
        "EEXIST": "a file stands where a folder is needed; choose another path",
        "ENOENT": "check the path",
        "EISDIR": "name a file, not a folder",
        "EMFILE": "close some files, or raise the limit (ulimit -n)",
        "ENFILE": "close some files, or raise the limit (ulimit -n)",
        "EAGAIN": "end some processes, or raise the limit (ulimit -u)",
    }.get(errno.errorcode.get(error.errno or 0, ""), "check the path")
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}; {remedy}"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error says, in its own way, that there is no memory: Python's, the system's, torch's, or that of a
    library that could not be loaded."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    message = str(error).lower()
    return isinstance(error, (ImportError, OSError, RuntimeError)) and any(words in message for words in _NO_MEMORY)


def _fail(message: str) -> int:
    """Print an error on one line and return its exit code."""
    line = " ".join(message.split())
    say(f"cadmus-probe: error: {line}")
    return 2


def script() -> None:
    """The console script's entry point."""
    keep_streams()
    end_on_signals()
    sys.exit(main())


if __name__ == "__main__":
    script()
