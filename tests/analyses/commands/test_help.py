"""Help loses nothing: over the whole tree of commands, and where brackets hold what rich would take for markup."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer

from analyses.cli import app, main
from analyses.commands.help import PlainHelp
from analyses.commands.terminal import progress_bars


def tree(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that call it."""
    yield words, command
    for name, member in getattr(command, "commands", {}).items():
        yield from tree(member, (*words, name))


def letters(text: str) -> str:
    """A text without spaces and the lines of boxes: what help shows of it, however it is wrapped."""
    return re.sub(r"[\s│╭╮╰╯─]", "", text)


def texts(command: Any) -> list[str]:
    """What a command's author wrote for its help."""
    written = [command.help, command.epilog, *(getattr(parameter, "help", "") for parameter in command.params)]
    return [text for text in written if text]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal so wide that no text of an option is wrapped beside another column."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 2000)


def help_of(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*words, "--help"]) == 0
    return letters(capsys.readouterr().out)


TREE = list(tree(typer.main.get_command(app)))


@pytest.mark.parametrize(("words", "command"), TREE, ids=[" ".join(words) or "cadmus-probe" for words, _ in TREE])
def test_help_shows_every_word(
    words: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str], wide: None
) -> None:
    shown = help_of(words, capsys)
    for text in texts(command):
        for paragraph in text.split("\n\n"):
            assert letters(paragraph) in shown
    for name, member in getattr(command, "commands", {}).items():
        assert name in shown
        assert letters(member.help.partition("\n\n")[0]) in shown


PROGRAM = "[a+b=.] [/b] [bold]x[/bold] [#1>] [@;] \\[c] [34+7=.] 3:x:= :x:: ::x: [:x:] :[x]:"


def bracketed(value: Annotated[str, typer.Option(help=f"A program, {PROGRAM}")] = "") -> None:
    pass


def an_app() -> typer.Typer:
    planted = typer.Typer(rich_markup_mode="rich", cls=PlainHelp, epilog=f"At the end {PROGRAM}")
    planted.command("first", help=f"One {PROGRAM}\n\nAnd more: {PROGRAM}")(bracketed)
    group = typer.Typer(rich_markup_mode="rich", help=f"A group {PROGRAM}")
    group.command("second", help=f"Another {PROGRAM}")(bracketed)
    group.command("third", help="None")(bracketed)
    planted.add_typer(group, name="group")
    return planted


@pytest.mark.parametrize("words", [(), ("first",), ("group",), ("group", "second")])
def test_what_stands_in_brackets_is_no_markup(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], wide: None
) -> None:
    command = typer.main.get_command(an_app())
    for _ in range(2):  # what is escaped once is not escaped twice
        command([*words, "--help"], prog_name="planted", standalone_mode=False)
        shown = letters(capsys.readouterr().out)
        expected = {(): 3, ("first",): 3, ("group",): 2, ("group", "second"): 2}[words]
        assert shown.count(letters(PROGRAM)) == expected, shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bars_show_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress_bars() as progress:
        progress("run [a+b=.]", 0.5, "at [/b]")
    assert "run [a+b=.]" in terminal.getvalue()
    assert "at [/b]" in terminal.getvalue()
