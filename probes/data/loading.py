"""Objects of a user's own, named on the command line as `FILE.py:NAME`: a probe, a variable."""

from __future__ import annotations

import importlib.util
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from probes.data.targets import Variable

FAILURES = (Exception, SystemExit)  # of a user's code; Ctrl-C passes through
_MAX_MESSAGE = 300  # characters of an exception's message


def load(source: str, option: str, example: str) -> Any:
    """Load the object that `FILE.py:NAME` names; option and example are for the message.

    The file's folder is searched for modules that it imports, then or later, after all that is installed. Raises
    ValueError, in one line, where the file or the name is missing, and where the file raises or exits.
    """
    path, _, name = source.rpartition(":")
    if not path.endswith(".py") or not name:
        raise ValueError(f"{option} {source!r} must be FILE.py:NAME, such as {example}")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; name the Python file that holds {name}")
    spec = importlib.util.spec_from_file_location(f"custom_{option.strip('-')}_{Path(path).stem}", path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a class of the file is looked for when it is copied
    folder = str(Path(os.path.realpath(path)).parent)
    if folder not in sys.path:
        sys.path.append(folder)  # not in front, where it would shadow what is installed
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        raise ValueError(f"{source} raised {one_line(error)}") from error
    loaded_object = getattr(module, name, None)
    if loaded_object is None:
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{path} has no {name!r}; it has {', '.join(public) or 'no names'}")
    return loaded_object


def load_variable(source: str) -> Variable:
    """Load the function that `FILE.py:NAME` names: of the traces, or of the traces and the programs (`targets.read`).

    Raises ValueError as `load` does, and for what cannot be called.
    """
    variable = load(source, "--variable", "my_variables.py:total")
    if not callable(variable):
        raise ValueError(f"{source} has the type {type(variable).__name__}; a variable is a function of the traces")
    return variable


def one_line(error: BaseException) -> str:
    """An exception in one line, fit for a table."""
    message = textwrap.shorten(str(error), _MAX_MESSAGE, placeholder=" ...")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
