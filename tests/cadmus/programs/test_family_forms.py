"""The form of every family: what is of it, what only looks so, the answers by hand, and the knobs that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from cadmus.machine import vm
from cadmus.programs.families import (
    FAMILIES,
    Arith,
    Compare,
    Equality,
    Family,
    Induce,
    Label,
    Random,
    Register,
    Sequence,
    SequenceAdvanced,
    Stack,
    Subroutine,
)
from cadmus.programs.parts.family import knobs
from tests.cadmus.programs.test_families import SETTINGS, parts, texts

FORMED = [family for family in SETTINGS if not isinstance(family, Random)]
each_formed = pytest.mark.parametrize("family", FORMED, ids=str)

# --- what only looks so ----------------------------------------------------------------------------------------------

TRIVIAL = ["34.", "1.", "34", ".", "", "11=!!.", "{1}7f.", "{1}.", "=.", "1=.", "(1,.", "(1,2,S.", "1A1."]


def alphabet(family: Family) -> str:
    """What may stand outside the definitions of a program of the family."""
    name = family.name
    if name in ("arith", "equality", "compare", "subroutine"):
        relations = {"arith": "=", "equality": "=!"}.get(name, "<>=")
        return family.operators + relations + ("fgh"[: family.subroutines] if name == "subroutine" else "")
    if name in ("label", "induce"):
        return "(,f!" if name == "label" else "(,f="
    if name == "register":
        return family.registers + family.registers.upper() + family.operators + "+~="
    if name == "stack":
        return family.shuffles + family.operators + "+~="
    return "(,r" + family.steps + family.readings + "+~="


def leaves(main: str) -> int | None:
    """How many values a text without definitions leaves, by the instruction table; None where it underflows."""
    depth = 0
    for token in main:
        row = vm.INSTRUCTIONS[token]
        if depth < row.inputs:
            return None
        depth += row.outputs - row.inputs
    return depth


def edits(text: str) -> Iterator[str]:
    """Every text with one token of the body dropped, doubled or replaced."""
    body = text.removesuffix(".")
    for i, token in enumerate(body):
        for other in ("", token * 2, *vm.VOCAB.replace(token, "").replace(".", "")):
            yield body[:i] + other + body[i + 1 :] + "."


@pytest.mark.slow
@each_formed
def test_what_is_one_edit_away_is_refused_or_well_formed(family: Family) -> None:
    """One value for every statement, no foreign instruction, definitions that are there, and answers of the form."""
    n_refused = n_true = 0
    for text in sorted(texts(family)[:20], key=len)[:3]:
        for edited in edits(text):
            if not family.accepts(edited):
                n_refused += 1
                n_true += vm.verdict(edited)
                continue
            main = re.sub(r"\{[^{}]+\}", "", edited).removesuffix(".")
            assert not set(main) - set("0123456789" + alphabet(family)), edited
            statements = main.count("f") if family.name in ("label", "induce") else family.assertions
            assert leaves(main) == statements, edited
            if family.name == "subroutine":
                assert len(re.findall(r"\{[^{}]+\}", edited)) == family.subroutines
            positions = family.decisions(edited)
            assert list(positions) == sorted(set(positions))
            assert 0 < positions[0] <= positions[-1] < len(edited)
            answer = family.answer(edited, positions[-1])
            assert answer is None or family.accepts(edited[: positions[-1]] + answer)
            assert family.accepts(edited[:-1]), "the . makes a difference"
    assert n_refused > 200, "nearly all is taken"
    assert n_true > 10, "what is refused is false anyway"


def near_misses(family: Family, text: str) -> Iterator[str]:
    """Texts that differ from the family's form in one respect, most of them still true."""
    body = text.removesuffix(".")
    yield body[0] + text
    yield body + "!!."
    yield body + "3."
    yield "5" + text  # one more true value
    yield "{}" + text
    yield body + "{}."
    yield body + "{1}{2}{3}{4}."
    if not text.startswith("{") and not text.endswith("}."):
        yield "{1}" + text
        yield body + "{1}."
        yield body[:1] + "{1}" + body[1:] + "."
    elif "{" in text:
        definitions = "".join(re.findall(r"\{[^{}]*\}", body))
        main = body.replace(definitions, "")
        yield main + "."
        yield definitions + "."
        yield definitions + main + definitions + "."
        yield definitions * 2 + main + "."
        yield main + definitions * 2 + "."
        yield main[:1] + definitions + main[1:] + "."
        yield "{}" * definitions.count("{") + main + "."
        yield definitions[:-1] + main + "."
        yield definitions[1:] + main + "."
        if family.name == "label":
            yield main + definitions + "."
        if family.name == "induce":
            yield definitions + main + "."
    if hasattr(family, "assertions"):
        yield from (body + statement + "." for statement in statements_of(family, body))  # an assertion too many
        if family.name != "register":
            yield from (statement + body + "." for statement in statements_of(family, body))
    if family.name in ("label", "induce"):
        examples = re.findall(r"\([\d,]+f(?:[01]=|!)?", body)
        yield body.replace(examples[0], examples[0] * (family.max_examples + 1))
        yield body.replace(examples[0], examples[0].replace(",", ",1," + "1," * family.max_elements, 1))
        yield body.replace("".join(examples), "")
    if family.name == "register":
        yield "".join(parts(text)[1]) + "."  # no stores
        yield body.replace("=", "<", 1) + "."
        for unused in set("abcd") - set(family.registers):
            yield "1" + unused.upper() + text
        for unused in set("+-*xn/%") - set(family.operators):
            register = family.registers[0]
            yield f"1{register.upper()}{register}1{unused}{register.upper()}{text}"


def statements_of(family: Family, body: str) -> list[str]:
    """The statements of a program without its definitions or stores, each through its relation."""
    if family.name == "register":
        return parts(body)[1]
    return re.findall("[^<>=]+[<>=]!?", re.sub(r"\{[^{}]*\}", "", body))


@pytest.mark.slow
@each_formed
def test_near_misses_have_not_the_form(family: Family) -> None:
    true = 0
    for text in texts(family)[:60]:
        for wrong in [*near_misses(family, text), *TRIVIAL]:
            assert not family.accepts(wrong), f"{wrong} from {text}"
            true += vm.verdict(wrong)
    assert true > 60, "near misses that are false show little"


@pytest.mark.parametrize("name", FAMILIES)
def test_trivial_programs_are_of_no_family_but_random(name: str) -> None:
    for text in [*TRIVIAL, "11=.", "111.", "11+.", "(1,.", "{}1.", "1A1."]:
        assert name == "random" or not FAMILIES[name]().accepts(text), text
    assert Random().accepts("345.")
    assert Random().accepts("11=.")


NOT_ACCEPTED = {
    Arith(): ["34+07=.", "3=.", "34+7=!.", "34+7<.", "734+=.", "34+79+=.", "12+34+7=.", "34+&7=.", "٣4+7=."],
    Arith(operators="+"): ["34-1=.", "34*2=."],
    Arith(min_length=5): ["34+7=."],
    Equality(test="-"): ["34+34+-!!.", "34+34+=.", "34+34+!.", "34+.", "34+-.", "34+34+12+-.", "34+34+-34+34+-."],
    Equality(): ["34+34+=!!.", "34+34+<.", "34+34+!.", "34+7=.", "34+=.", "34+34+12+=.", "34+34+=34+34+=."],
    Compare(): ["941-*51+>.", "941-*55*1+>!.", "941-*55*1+&.", "941-*55*1+>11=.", "941-*~5*1+>."],
    Compare(length=1, low=0, high=9): ["3=.", "334=.", "33=!.", "٣3=."],
    Subroutine(): [
        "{1+}3f4.",
        "{1+}3f=.",
        "{1+}f4=.",
        "{1+}3g4=.",
        "{1+}3fff4=.",
        "{1+}34=.",
        "{1+}3F4=.",
        "3f4=.",
        "{}3f4=.",
        "{1+}3f4={1+}.",
        "3f{1+}4=.",
        "{1+}{1+}3f4=.",
        "{1+3f4=.",
        "3f4={1+.",
        "1+}3f4=.",
        "{1{+}3f4=.",
        "{1+}3f4f=.",
    ],
    Subroutine(min_calls=2): ["{1+}3f4=."],
    Subroutine(subroutines=2): ["{1+}3f4={1+}.", "{1+}3f4=.", "{1+}{1+}3h4=.", "3f{1+}{1+}4=.", "{1+}{1+}{1+}3f4=."],
    Sequence(): [
        "(1,2,3,=.",
        "(1,2,3,1I=.",
        "1,2,3,1I2=.",
        "(1,2,31I2=.",
        "(1,2,3,I2=.",
        "(1,2,3,S6.",
        "(#0=.",
        "12rS9=.",
        "(1,2,3,RTRS3=.",
        "(1,2,3,OS6=.",
        "(1,2,3,4,5,6,S3=.",
        "(1,2,3,S6=!.",
        "(1,2,3,S6<.",
        "(1,2,3,QS6=.",
        "((1,S1=.",
    ],
    Sequence(steps="R", readings="S"): ["(1,2,TS2=.", "(1,2,X2=.", "(1,2,(3,QS6=."],
    Sequence(count_share=0.0): ["5r#5=."],
    SequenceAdvanced(): [
        "{1>}(1,2,O#2=.",
        "(1,2,W#1=.",
        "{}(1,2,W#1=.",
        "{1>}(1,2,W#1={1>}.",
        "(1,2,#2=.",
        "(1,2,RS3=.",
        "(1,O#1=.",
        "(1,2,1-S1=.",
        "{1>}{2>}(1,2,W#1=.",
        "(1,2,{1>}W#1=.",
    ],
    Label(): [
        "(1,2,3,f{#1>}.",
        "{#1>}(1,2,3,f!!.",
        "{#1>}(1,2,3,g.",
        "{#1>}(1,2,3,.",
        "{#1>}.",
        "{#1>}(f.",
        "{#1>}5f.",
        "{#1>}(1,2,3,f1=.",
        "{#1>}(1,2,3,4,5,f.",
        "{#1>}(1,f(1,f(1,f(1,f!.",
        "{}(1,f.",
        "{#1>}(1,f{1}.",
    ],
    Induce(): [
        "{#1>}(1,2,f1=(2,3,f1=(7,f0=.",
        "(1,2,f1=(2,3,f1={#1>}.",
        "(1,2,f1=(2,3,f1=(7,f2={#1>}.",
        "(1,2,f1=(7,f0=(7,f0={}.",
        "(1,2,f1=(2,3,f1=(7,f0=.",
        "(1,2,f1=(2,3,f1=(7,f!{#1>}.",
        "(1,2,f1=(2,3,f1=(7,f0={#1>}{1}.",
    ],
    Random(): ["34.", "123456789.", "", "."],
    Random(instructions="12+-"): ["1:1.", "12+3."],
    Register(): [
        "3A.",
        "3Aa3.",
        "a3=.",
        "3Aab3=.",
        "3A3=.",
        "3Aa=.",
        "Aa3=.",
        "3Aa3=a3=.",
        "3Aa3<.",
        "3Aa3=!.",
        "a3=3A.",
    ],
    Register(registers="a"): ["3B3Aa3=.", "3Ab3=."],
    Register(operators="+"): ["3Aa1-Aa2=.", "3Aaa-0=."],
    Stack(): [
        "34+7=.",
        "34\\-1.",
        "34\\-=.",
        "34\\1=.",
        "34\\--1=.",
        "3\\4-1=.",
        "34\\-+1=.",
        "34\\*3=.",
        "34\\-1=!.",
        "34r-1=.",
        "34\\\\\\\\-1=.",
        "34567\\----1=.",
        "34;;4=.",
        "34@+7=.",
        "34ooo:++++1=.",
        "34\\-1<.",
        "4:+8=.",
    ],
    Stack(shuffles=":"): ["34\\-1=."],
    Stack(min_shuffles=2): ["34\\-1=."],
}


@pytest.mark.parametrize(("family", "wrong"), NOT_ACCEPTED.items(), ids=str)
def test_texts_that_have_not_the_form(family: Family, wrong: list[str]) -> None:
    for text in wrong:
        assert not family.accepts(text), text
        message = f"{text!r} is not a program of the family {family.name} with these knobs"
        with pytest.raises(ValueError, match=re.escape(message)):
            family.decisions(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            family.answer(text, 1)


def test_what_stands_behind_the_end_does_not_matter() -> None:
    for family in FORMED:
        text = texts(family)[0]
        assert family.decisions(text + "..34+") == family.decisions(text) == family.decisions(text[:-1]), family


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (Arith(), "34+8=."),
        (Arith(), "10/0=."),
        (Compare(), "941-*55*1+<."),
        (Compare(low=0, high=9, length=1), "34=."),
        (Equality(), "34+80+=."),
        (Equality(), "34+34+=!."),
        (Equality(test="-"), "34+34+-."),
        (Equality(test="-"), "34+35+-!."),
        (Subroutine(), "{1+}3f5=."),
        (Subroutine(), "3f5={1+}."),
        (Sequence(), "(1,2,3,1I3=."),
        (SequenceAdvanced(), "{1>}(1,2,3,W#3=."),
        (SequenceAdvanced(), "(1,2,3,W#3={1>}."),
        (Label(), "{#1>}(1,2,3,f!."),
        (Induce(), "(1,2,f1=(2,3,f1=(7,f1={#1>}."),
        (Random(), "340."),
        (Register(), "3A4Bab+8=."),
        (Register(), "3Ab0=."),
        (Stack(), "34\\-2=."),
    ],
    ids=str,
)
def test_form_does_not_ask_for_truth(family: Family, text: str) -> None:
    assert not vm.verdict(text)
    assert family.accepts(text)


# --- answers by hand -------------------------------------------------------------------------------------------------

ANSWERS = [
    (Arith(), "34+7=.", {3: "7=."}),
    (Arith(), "34+8=.", {3: "7=."}),
    (Arith(), "34-1=.", {3: None}),  # -1 is no digit
    (Arith(), "99+8=.", {3: None}),
    (Arith(), "10/5=.", {3: None}),
    (Arith(assertions=2), "34+7=94-0=.", {3: "7=", 8: "5=."}),
    (Compare(), "941-*55*1+>.", {10: ">."}),
    (Compare(), "941-*55*1+<.", {10: ">."}),
    (Compare(low=0, high=9, length=1), "33=.", {2: "=."}),
    (Compare(low=0, high=9, length=1), "03>.", {2: "<."}),
    (Compare(length=3, low=-9, high=18), "10/34+<.", {6: None}),
    (Compare(length=3, low=-9, high=18), "34+10%<.", {6: None}),
    (Compare(length=1, low=0, high=9, assertions=3), "12<21<33<.", {2: "<", 5: ">", 8: "=."}),
    (Equality(), "34+34+=.", {7: "."}),
    (Equality(), "34+34+=!.", {7: "."}),
    (Equality(), "34+35+=.", {7: "!."}),
    (Equality(), "10/34+=!.", {7: None}),
    (Equality(assertions=2), "34+35+=!11+20+=.", {7: "!", 15: "."}),
    (Equality(length=2, operators="~", low=-9, high=0), "3~3~=4~5~=".partition("4")[0] + ".", {5: "."}),
    (Equality(test="-"), "34+34+-!.", {7: "!."}),
    (Equality(test="-"), "34+34+-.", {7: "!."}),
    (Equality(test="-"), "34+35+-.", {7: "."}),
    (Equality(test="-"), "10/34+-!.", {7: None}),
    (Subroutine(length=5, high=27), "{41-*}9f55*1+>.", {13: ">."}),
    (Subroutine(length=5, high=27), "{41-*}9f55*2+<.", {13: "=."}),
    (Subroutine(length=5, high=27), "9f55*1+>{41-*}.", {8: "{41-*}."}),
    (Subroutine(subroutines=2), "{1+}{2*}3fg8=.", {12: "=."}),
    (Subroutine(subroutines=2), "3fg8={1+}{2*}.", {5: "{1+}{2*}."}),
    (Subroutine(assertions=2), "{1+}3f4=3f5>.", {7: "=", 11: "<."}),
    (Subroutine(assertions=2), "3f4=3f5>{1+}.", {8: "{1+}."}),
    (Subroutine(), "{0/}9f3<.", {7: None}),
    (Subroutine(), "{(}9f3<.", {6: None}),  # a sequence has no relation to 3
    (Sequence(), "(1,2,3,1I2=.", {9: "2=."}),
    (Sequence(), "(4,1,(7,QRS48+=.", {11: "93+=."}),
    (Sequence(), "5rS0=.", {3: "91+=."}),
    (Sequence(), "(3,5I0=.", {5: None}),
    (Sequence(), "(3,TX0=.", {5: None}),
    (Sequence(), "(4,6,6E0=.", {7: "1=."}),
    (Sequence(assertions=2), "(4,#1=3rRX0=.", {4: "1=", 10: "2=."}),
    (SequenceAdvanced(), "{1>}(1,2,3,W#2=.", {13: "2=."}),
    (SequenceAdvanced(), "(1,2,3,W#2={1>}.", {11: "{1>}."}),
    (SequenceAdvanced(), "(3,1,2,OP1I3=.", {11: "3=."}),
    (SequenceAdvanced(steps="-", low=-9), "(3,1,5-X0=.", {8: "2~=."}),
    (SequenceAdvanced(), "{0%}(1,2,MS3=.", {11: None}),
    (SequenceAdvanced(assertions=2), "(2,1,O#2=(2,1,MS5={1+}.", {18: "{1+}."}),
    (SequenceAdvanced(assertions=2), "{1+}(2,1,O#2=(2,1,MS0=.", {11: "2=", 20: "5=."}),
    (Label(), "{#1>}(1,2,3,f(7,f!.", {13: "", 17: "!."}),
    (Label(), "{#1>}(1,2,3,f!(7,f.", {13: "", 18: "!."}),
    (Label(), "{#1>}(1,2,f!.", {11: "."}),
    (Label(), "{5I}(1,2,f.", {10: None}),
    (Induce(), "(1,2,3,f1=(2,3,f1=(7,f0={#1>}.", {24: "{#1>}."}),
    (Induce(), "(1,f0=(2,f0=(3,f0={1}.", {18: "{1}."}),
    (Random(), "34+7=.", {2: "+7=."}),
    (Random(), "3A4B.", {2: "4B."}),
    (Register(), "3A4Bab+7=.", {7: "7=."}),
    (Register(), "3A4Bab+8=.", {7: "7=."}),
    (Register(high=18, assertions=3), "9Aa9+Bb99+=a9=bb-0=.", {7: "99+=", 12: "9=", 17: "0=."}),
    (Register(low=-9), "2Aa5-Bb3~=.", {7: "3~=."}),
    (Register(low=-9), "2~Aaa+0=.", {6: "4~=."}),
    (Register(), "0Aab+5=.", {5: None}),
    (Register(), "0Ab5=.", {3: None}),
    (Stack(), "34\\-1=.", {4: "1=."}),
    (Stack(), "92\\-0=.", {4: "7~=."}),
    (Stack(), "52:-+0=.", {5: "5=."}),
    (Stack(), "358@\\-+0=.", {7: "0=."}),
    (Stack(assertions=2), "34;3=99o++0=.", {3: "3=", 10: "99+9+=."}),
    (Stack(max_values=2, max_shuffles=9, max_depth=11, operators="*"), "99:::::::::**********0=.", {21: None}),
]


@pytest.mark.parametrize(("family", "text", "answers"), ANSWERS, ids=str)
def test_answers_by_hand(family: Family, text: str, answers: dict[int, str | None]) -> None:
    assert family.decisions(text) == tuple(answers)
    assert {position: family.answer(text, position) for position in answers} == answers
    for position in set(range(-1, len(text) + 2)) - set(answers):
        assert family.answer(text, position) is None


def test_every_family_has_answers_by_hand_and_texts_that_are_not_its() -> None:
    assert (
        {type(family) for family, *_ in ANSWERS} == {type(family) for family in NOT_ACCEPTED} == set(FAMILIES.values())
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_program_that_a_family_is_introduced_with_is_true_and_of_its_form(name: str) -> None:
    introductions = re.findall(
        r"\[([^\] ]*)\]", __import__(f"cadmus.programs.families.{name}", fromlist=["*"]).__doc__ or ""
    )
    assert introductions or name == "random"
    for text in introductions:
        assert vm.verdict(text), f"{text} is shown as a program of {name}"


# --- knobs that are refused ------------------------------------------------------------------------------------------


def shares(kind: type[Family], *names: str) -> Iterator[tuple[Callable[[], Family], str]]:
    for name in names:
        for value in (-0.1, 1.5, float("nan")):
            message = f"{kind.name}: knob {name} = {value} is a share, so it must lie in [0, 1]"
            yield (lambda name=name, value=value: kind(**{name: value})), message


def ranges(kind: type[Family], what: str, minimum: int, maximum: int) -> Iterator[tuple[Callable[[], Family], str]]:
    for low, high in [(minimum - 1, maximum), (minimum, maximum + 1), (maximum, maximum - 1)]:
        message = (
            f"{kind.name}: min_{what} = {low} and max_{what} = {high} "
            f"must have {minimum} <= min_{what} <= max_{what} <= {maximum}"
        )
        yield (lambda low=low, high=high: kind(**{f"min_{what}": low, f"max_{what}": high})), message


def between(kind: type[Family], name: str, low: int, high: int) -> Iterator[tuple[Callable[[], Family], str]]:
    for value in (low - 1, high + 1):
        message = f"{kind.name}: {name} = {value} must lie in {low}..{high}"
        yield (lambda value=value: kind(**{name: value})), message


def some_tokens(kind: type[Family], name: str, allowed: str, wrong: str) -> Iterator[tuple[Callable[[], Family], str]]:
    for value in ("", wrong, allowed[:2] + allowed[0]):
        message = f"{kind.name}: {name} = {value!r} must be some of {' '.join(allowed)}, each once"
        yield (lambda value=value: kind(**{name: value})), message


COMPUTED = [Arith, Equality, Compare, Subroutine]
ANY = vm.VOCAB.replace(".", "")
REFUSED = [
    (
        lambda: Compare(low=-20, high=20, length=3),
        "compare: no expression of 3 instructions has the value -20 (nearest: -9); "
        "choose low and high within [-9, 18], or another length",
    ),
    (
        lambda: Equality(low=0, high=19),
        "equality: no expression of 3 instructions has the value 19 (nearest: 18); "
        "choose low and high within [-9, 18], or another length",
    ),
    (
        lambda: Compare(low=0, high=12, length=1),
        "compare: no expression of 1 instructions has the value 10 (nearest: 9); "
        "choose low and high within [0, 9], or another length",
    ),
    (
        lambda: Subroutine(operators="+", low=-1),
        "subroutine: no expression of 1 or 3 instructions over + has the value -1 (nearest: 0); "
        "choose low and high within [0, 18], or another length",
    ),
    (
        lambda: Arith(length=3, operators="%", skeletons=1),
        "arith: no expression of 3 instructions over % with 1 skeletons has the value 9 (nearest: 8); "
        "choose low and high within [0, 8], or another length",
    ),
    (lambda: Compare(low=3, high=2), "compare: low = 3 is above high = 2; swap them"),
    (
        lambda: Compare(length=4),
        "compare: no expression of 4 instructions exists over the operators '+-*/%xn'; "
        "odd lengths need one of + - * / % x n, even ones one of ~ m",
    ),
    (
        lambda: Compare(length=2, skeletons=3),
        "compare: no expression of 2 instructions exists over the operators '+-*/%xn'",
    ),
    (
        lambda: Compare(length=7, operators=""),
        "compare: operators = '' must be some of + - * / % x n ~ m, each once",
    ),
    *(
        (
            lambda knob=knob: Compare(length=7, **knob),
            "compare: skeletons and zipf choose among listed expressions, so length = 7 must be 5 or less",
        )
        for knob in ({"skeletons": 3}, {"zipf": 1.0})
    ),
    (lambda: Stack(zipf=1.0), "stack: zipf = 1.0 weighs a number of skeletons; set skeletons too"),
    *(
        (
            lambda share=share: Induce(false_share=share),
            f"induce: both labels occur in every program, so false_share = {share} must lie between 0 and 1",
        )
        for share in (0.0, 1.0)
    ),
    (lambda: Arith(low=-1), "arith: X equals a digit, so low = -1 and high = 9 must lie in 0..9, low first"),
    (lambda: Arith(high=10), "arith: X equals a digit, so low = 0 and high = 10 must lie in 0..9, low first"),
    (lambda: Compare(low=3, high=3), "compare: X and Y can only be equal (low = high = 3); set equal_share = 1"),
    (lambda: Subroutine(low=3, high=3), "subroutine: X and Y can only be equal (low = high = 3); set equal_share = 1"),
    (lambda: Equality(low=3, high=3), "equality: X and Y can only be equal (low = high = 3); set negated_share = 0"),
    *(
        (lambda kind=kind, operators=operators: kind(operators=operators),
         f"{kind.name}: operators = {operators!r} must be some of + - * / % x n ~ m, each once")
        for kind in COMPUTED for operators in ("+!", "++", "1")
    ),
    *(
        (lambda kind=kind, minimum=minimum: kind(length=5, min_length=minimum),
         f"{kind.name}: min_length = {minimum} must be 0 or lie in 1..5")
        for kind in COMPUTED for minimum in (-1, 6)
    ),
    *(refusal for kind in COMPUTED for refusal in between(kind, "length", 1, 9)),
    *shares(Compare, "equal_share"),
    *shares(Equality, "negated_share"),
    (lambda: Equality(test="<"), "equality: test = '<' must be one of = -"),
    (
        lambda: Equality(test="-", assertions=2),
        "equality: assertions = 2 must be 1 with test = '-', or set test = '='",
    ),
    *shares(Subroutine, "equal_share", "after_share"),
    *between(Subroutine, "subroutines", 1, 3),
    *between(Subroutine, "min_calls", 1, 8),
    (lambda: Subroutine(min_calls=3), "subroutine: max_calls = 2 must lie in 3..8"),
    (lambda: Subroutine(max_calls=9), "subroutine: max_calls = 9 must lie in 1..8"),
    (
        lambda: Subroutine(operators="~m", length=1, high=9),
        "subroutine: operators = '~m' has none of + - * / % x n, which bodies need",
    ),
    *(
        refusal
        for kind in (Sequence, SequenceAdvanced, Stack)
        for refusal in [
            (lambda kind=kind: kind(low=-82), f"{kind.name}: [low, high] = [-82, {kind().high}] must lie in [-81, 81]"),
            (lambda kind=kind: kind(high=82), f"{kind.name}: [low, high] = [{kind().low}, 82] must lie in [-81, 81]"),
            (lambda kind=kind: kind(low=5, high=4), f"{kind.name}: [low, high] = [5, 4] must lie in [-81, 81], "),
        ]
    ),
    *(refusal for kind in (Sequence, SequenceAdvanced) for refusal in (
        *ranges(kind, "elements", 1, 16),
        *ranges(kind, "steps", 0, 8),
        *shares(kind, "count_share"),
        *some_tokens(kind, "readings", "#SXIE", "#O"),
    )),
    *some_tokens(Sequence, "steps", "RTQ", "RW"),
    *some_tokens(SequenceAdvanced, "steps", "WMOPRTQ+-*xn", "W/"),
    *some_tokens(SequenceAdvanced, "body_operators", "+-*xn%<>=", "+/"),
    *shares(SequenceAdvanced, "after_share"),
    *(refusal for kind in (Label, Induce) for refusal in (
        *ranges(kind, "elements", 1, 16),
        *shares(kind, "false_share"),
        *(
            (lambda kind=kind, name=name, words=words: kind(**{name: words}),
             f"{kind.name}: {name} = {words!r} must be some of {allowed}, each once, with spaces between")
            for name, allowed in [
                ("predicates", "length sum largest smallest first last contains"), ("tests", "> < = odd even")
            ]
            for words in ("", "sums", f"{allowed.split()[0]} {allowed.split()[0]}", allowed.replace(" ", ","))
        ),
    )),
    *ranges(Label, "examples", 1, 16),
    *ranges(Induce, "examples", 2, 16),
    *ranges(Random, "length", 2, 32),
    *shares(Random, "digit_share"),
    (lambda: Random(instructions="."), f"random: instructions = '.' must be some of {' '.join(ANY)}, each once"),
    (lambda: Random(instructions=""), "random: instructions = '' must be some of "),
    (lambda: Random(instructions="aa"), "random: instructions = 'aa' must be some of "),
    (lambda: Random(instructions="123"), "random: instructions are digits only, so digit_share must be 1"),
    (lambda: Random(instructions="+:"), "random: instructions hold no digit, so digit_share must be 0"),
    (lambda: Register(low=1), "register: [low, high] = [1, 9] must hold 0 and lie in [-81, 81]"),
    (lambda: Register(high=82), "register: [low, high] = [0, 82] must hold 0 and lie in [-81, 81]"),
    (
        lambda: Register(min_distance=4),
        "register: min_distance = 4 stores cannot follow a store where there are at most max_stores = 4; "
        "lower the one or raise the other",
    ),
    *some_tokens(Register, "registers", "abcd", "ae"),
    *some_tokens(Register, "operators", "+-*xn", "+/"),
    *ranges(Register, "stores", 1, 16),
    *ranges(Register, "distance", 0, 16),
    *shares(Register, "dependent_share", "overwrite_share", "dead_share", "pair_share", "aged_pair_share"),
    *ranges(Stack, "values", 1, 9),
    *ranges(Stack, "shuffles", 0, 16),
    *some_tokens(Stack, "shuffles", ":\\@o;", ":+"),
    *some_tokens(Stack, "operators", "+-*xn", "+%"),
    (lambda: Stack(max_depth=3), "stack: max_depth = 3 must lie in 4..16"),
    (lambda: Stack(max_depth=17), "stack: max_depth = 17 must lie in 4..16"),
    (
        lambda: Stack(shuffles="@"),
        "stack: none of the shuffles '@' works on 2 values within max_depth = 5; "
        "raise min_values or max_depth, or set min_shuffles = 0",
    ),
    (
        lambda: Stack(shuffles=":", min_values=4, max_depth=4),
        "stack: none of the shuffles ':' works on 4 values within max_depth = 4; ",
    ),
    *(
        refusal
        for kind in FAMILIES.values() if "assertions" in knobs(kind)
        for refusal in between(kind, "assertions", 1, 8)
    ),
    *(
        refusal
        for kind in FAMILIES.values() if "skeletons" in knobs(kind)
        for refusal in [
            (lambda kind=kind: kind(skeletons=-1), f"{kind.name}: skeletons = -1 must be 0 (all) or more"),
            (lambda kind=kind: kind(zipf=11.0), f"{kind.name}: zipf = 11.0 is an exponent; it must lie in -10..10"),
            (lambda kind=kind: kind(zipf=float("nan")), f"{kind.name}: zipf = nan is an exponent; "),
            (lambda kind=kind: kind(digit_skew=-10.5), f"{kind.name}: digit_skew = -10.5 is an exponent; "),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_bad_knobs_are_refused(name: str) -> None:
    refusals = [(make, message) for make, message in REFUSED if message.startswith(f"{name}: ")]
    assert refusals
    for make, message in refusals:
        with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
            pytest.fail(f"{make()} is accepted; expected: {message}")
        assert "\n" not in str(caught.value), message


def test_every_knob_is_refused_somewhere() -> None:
    """Each knob is named in a message of its family, but low and high, which are named together."""
    assert {message.partition(":")[0] for _, message in REFUSED} == set(FAMILIES)
    for name, family in FAMILIES.items():
        mine = " ".join(message for _, message in REFUSED if message.startswith(f"{name}:"))
        for knob in knobs(family):
            assert re.search(rf"\b{knob}\b", mine), f"{name}.{knob}"


@pytest.mark.parametrize(
    "family",
    [
        Sequence(skeletons=50, max_elements=2, min_steps=0, max_steps=0, readings="S"),
        Register(skeletons=50, registers="a", max_stores=2, dependent_share=0.0, pair_share=0.0),
        Stack(skeletons=50, max_values=2, max_shuffles=1),
        Induce(skeletons=500, predicates="first", tests="odd", min_examples=2, max_examples=2),
    ],
    ids=str,
)
def test_more_skeletons_than_there_are_is_refused(family: Family) -> None:
    message = (
        rf"{family.name}: skeletons = {family.skeletons} are asked for, but these knobs give about \d+; ask for fewer"
    )
    with pytest.raises(ValueError, match=message) as caught:
        texts(family, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", ["٣", "é", " ", "\n", "_", "["])
def test_texts_with_a_character_that_is_no_instruction_are_of_no_family(token: str) -> None:
    for family in SETTINGS:
        text = texts(family)[0]
        for at in range(len(text)):
            wrong = text[:at] + token + text[at + 1 :]
            assert at == len(text) - 1 or not family.accepts(wrong), wrong
