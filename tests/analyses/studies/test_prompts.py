"""The comparison task for a chat model: the paper's two alphabets, prompts by seed, replies scored into Figure 1."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.cli import main
from analyses.studies.paper import prompts as module
from analyses.studies.paper import replies
from analyses.studies.paper.prompts import ALPHABETS, STANDARD, Prompt, PromptsConfig, messages, reference, rewritten
from cadmus.machine import vm
from cadmus.training.plane import REGIONS

SMALL = PromptsConfig(reach=22, programs=1, limit=60)
PAPER_TABLE_2 = dict(zip("0123456789" + "+-*/%xn<>=!", "-[_+!#917^" + "*/%)}Lb?$~&", strict=True))


@cache
def made() -> list[Prompt]:
    return module.prompts(SMALL)


def standard(prompt: Prompt) -> str:
    return (prompt.program + prompt.answer).translate(str.maketrans(ALPHABETS[prompt.alphabet], STANDARD))


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_the_alphabets_are_the_papers() -> None:
    for token, symbol in PAPER_TABLE_2.items():
        assert rewritten(token, "alternate") == symbol
        assert rewritten(token, "standard") == token
    assert all(len(set(alphabet)) == 21 for alphabet in ALPHABETS.values())


def test_programs_leave_x_and_y_and_the_answer_makes_them_true() -> None:
    for prompt in made():
        text = standard(prompt)
        assert [value.v for value in vm.run(text[:-1]).outputs] == [prompt.x, prompt.y]
        assert [relation for relation in "<=>" if vm.run(text[:-1] + relation).is_true] == [text[-1]]
        inside = max(abs(prompt.x), abs(prompt.y)) <= 20
        assert (prompt.region == REGIONS[0]) == inside
        assert (prompt.region == REGIONS[1]) == (not inside and prompt.x == prompt.y)


def test_both_alphabets_have_the_same_programs_and_regions_equal_shares() -> None:
    by_alphabet = {name: [p for p in made() if p.alphabet == name] for name in ALPHABETS}
    assert [standard(p) for p in by_alphabet["standard"]] == [standard(p) for p in by_alphabet["alternate"]]
    counts = Counter(prompt.region for prompt in by_alphabet["standard"])
    assert sum(counts.values()) == 60
    assert counts[REGIONS[1]] == 4  # 21, 22, -21, -22: there are no more
    assert counts[REGIONS[0]] == counts[REGIONS[2]] == 28
    assert len({prompt.id for prompt in made()}) == 120


def test_a_prompt_explains_its_symbols_and_does_not_say_the_answer() -> None:
    for prompt in made()[::17]:
        system, user = messages(prompt)
        assert (system["role"], user["role"]) == ("system", "user")
        assert user["content"].count(prompt.program) == 1
        assert reference(prompt.alphabet) in user["content"]
        assert prompt.program + prompt.answer not in user["content"]
        symbols = [line.split(" | ")[0] for line in reference(prompt.alphabet).splitlines()[1:]]
        assert symbols == list(ALPHABETS[prompt.alphabet])


def test_a_reference_says_what_the_machine_does() -> None:
    lines = dict(line.split(" | ", 1) for line in reference("alternate").splitlines())
    assert lines["*"] == "P and Q | P + Q"
    assert lines["["] == "nothing | the number 1"
    assert lines["&"] == "P | 1 where P = 0, else 0"
    assert lines["}"] == "P and Q | P - Q * (P / Q); NAN for Q = 0"


def test_the_same_config_writes_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert module.export(PromptsConfig(reach=2, programs=1, seed=seed), tmp_path / name) == 50
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]
    assert replies.read_prompts(tmp_path / "a") == module.prompts(PromptsConfig(reach=2, programs=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alphabets": ("greek",)}, "alphabet 'greek' is unknown; there are standard, alternate"),
        ({"alphabets": ("standard", "standard")}, "alphabets standard, standard must be one or more, each once"),
        ({"alphabets": ()}, r"alphabets \(none\) must be one or more"),
        ({"reach": 0}, "reach = 0 must be 1 or more"),
        ({"limit": -1}, "limit = -1 must be 0 or more"),
    ],
)
def test_configs_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptsConfig(**fields)


# --- scores ----------------------------------------------------------------------------------------------------------


def planted() -> list[tuple[str, str]]:
    """Standard symbols: all right, sloppily. Alternate ones: of every six a right one, a wrong one, an empty one, a
    refusal, one said twice, and none; and two replies that are to no prompt."""
    lines = []
    for k, prompt in enumerate(made()):
        wrong = next(s for s in replies.relations(prompt.alphabet) if s != prompt.answer)
        if prompt.alphabet == "standard":
            lines.append((prompt.id, ("{}", "`{}`", "Answer: {}", "```\n{}\n```")[k % 4].format(prompt.answer)))
        else:
            cases = ([prompt.answer], [wrong], [""], ["I cannot do that."], [prompt.answer, wrong], [])
            lines += [(prompt.id, text) for text in cases[k % 6]]
    return [*lines, ("standard-99999", "<"), ("other", "=")]


def test_replies_are_counted_by_what_they_say() -> None:
    scores = replies.score(made(), planted())
    sums = scores.counts.groupby("alphabet")[["prompts", "replies", "right", "missing", *replies.KINDS]].sum()
    assert sums.loc["standard"].tolist() == [60, 60, 60, 0, 0, 0, 0, 0]
    assert sums.loc["alternate"].tolist() == [60, 50, 10, 10, 10, 10, 0, 10]
    assert scores.n_unknown == 2
    assert scores.counts[scores.counts.alphabet == "standard"].accuracy.eq(1).all()
    alternate = scores.counts[scores.counts.alphabet == "alternate"]
    assert (
        alternate.accuracy_of_readable * (alternate.replies - alternate[list(replies.KINDS)].sum(axis=1))
    ).sum() == 10
    assert (alternate.low <= alternate.accuracy).all()
    assert len(scores.replies) == 110


def test_the_plane_is_that_of_figure_1() -> None:
    scores = replies.score(made(), planted())
    plane = scores.plane("alternate")
    assert plane.n.sum() == 50
    assert (plane.accuracy * plane.n).sum() == 10
    assert plane.other.sum() == 30
    assert plane[["less", "equal", "greater"]].to_numpy().sum() == 20
    assert not plane.duplicated(["x", "y"]).any()


def test_the_same_reply_twice_is_one() -> None:
    first = made()[0]
    scores = replies.score(made(), [(first.id, first.answer), (first.id, f"`{first.answer}`")])
    assert scores.replies.correct.tolist() == [True]


def test_replies_to_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 1 replies has the id of one of the 120 prompts"):
        replies.score(made(), [("nobody", "<")])


WRAPPED = [
    {"id": "a", "reply": "<"},
    {"custom_id": "a", "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "<"}}]}}},
    {"id": "a", "choices": [{"message": {"role": "assistant", "content": "<"}}]},
    {"id": "a", "message": {"role": "assistant", "content": [{"type": "text", "text": "<"}]}},
    {"id": "a", "content": [{"type": "text", "text": "<"}]},
    {"id": "a", "output": [{"type": "message", "content": [{"type": "output_text", "text": "<"}]}]},
    {"id": "a", "completion": "<"},
]


def test_replies_are_taken_as_services_write_them(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    lines = [json.dumps(row) for row in [*WRAPPED, {"id": "b", "reply": None}, {"id": "c", "choices": []}]]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8-sig")
    assert replies.read_replies(path) == [("a", "<")] * len(WRAPPED) + [("b", ""), ("c", "")]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 is not JSON"),
        (['{"id": "a", "reply": "<"}', '{"id": "a", "re'], "line 2 is not JSON"),
        (["[1]"], "line 1 is a list; write an object on each line"),
        (['{"reply": "<"}'], "line 1 has no id; give each reply the id of its prompt"),
        (['{"id": 7, "reply": "<"}'], "line 1 has no id"),
        (['{"id": "a", "said": "<"}'], "line 1 has no reply; its keys are id, said"),
        ([""], "has no line; write an object on each"),
    ],
)
def test_a_line_that_is_no_reply_is_named(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        replies.read_replies(write(tmp_path / "replies.jsonl", lines))


def test_a_file_that_is_no_prompts_is_named(tmp_path: Path) -> None:
    line = json.dumps(made()[0].to_json())
    for lines, message in (
        (['{"id": "a"}'], "line 1 has no 'alphabet'; name a file that cadmus-probe prompts export wrote"),
        ([line, line], "has an id twice"),
        ([line.replace('"alphabet": "standard"', '"alphabet": "alternate"')], "its alphabet, region and answer do not"),
    ):
        with pytest.raises(ValueError, match=message):
            replies.read_prompts(write(tmp_path / "prompts.jsonl", lines))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["prompts", "export", "--reach", "22", "--programs", "1", "--limit", "60"]) == 0
    assert capsys.readouterr().out == "120 prompts in prompts.jsonl\n"
    write(tmp_path / "replies.jsonl", [json.dumps({"id": i, "reply": text}) for i, text in planted()])
    return tmp_path


@pytest.mark.slow
def test_from_prompts_to_the_page(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "score", "prompts.jsonl", "replies.jsonl", "--out", "page"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "page/index.html"
    assert "2 replies name no prompt of the file" in out
    for name in ("plane-standard", "plane-alternate"):
        assert (files / "page" / "figures" / f"{name}.png").stat().st_size > 10_000
    counts = pd.read_csv(files / "page" / "tables" / "counts.csv")
    assert counts.right.sum() == 70
    report = (files / "page" / "report.md").read_text(encoding="utf-8")
    assert "of 60 replies are right; 0 cannot be read" in report
    assert "of 50 replies are right; 30 cannot be read and count as wrong, and 10 prompts have no reply" in report
    read = pd.read_csv(files / "page" / "tables" / "replies.csv")
    assert len(read) == 110


@pytest.mark.slow
def test_scores_as_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "score", "prompts.jsonl", "replies.jsonl", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["alphabet"] for row in rows} == set(ALPHABETS)
    assert sum(row["right"] for row in rows) == 70


def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "broken.jsonl", ["{"])
    (tmp_path / "folder").mkdir()
    for arguments, message in (
        (["export", "--alphabet", "greek"], "alphabet 'greek' is unknown; there are standard, alternate"),
        (["export", "--out", "folder"], "folder is a folder; name a file for the prompts"),
        (["export", "--mixture", "nowhere"], "nowhere"),
        (["score", "broken.jsonl", "broken.jsonl"], "broken.jsonl, line 1 is not JSON"),
        (["score", "missing.jsonl", "broken.jsonl"], "missing.jsonl"),
    ):
        assert main(["prompts", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert {path.name for path in tmp_path.iterdir()} == {"broken.jsonl", "folder"}
