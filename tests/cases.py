"""One table of programs and what they leave, derived by hand from the machine's specification, for every test of it.

`PAPER` are the examples of the specification with their verdicts; `CASES` cover every instruction, uniform rule, limit
and call rule. Outputs stand bottom first. No entry was made by running the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from cadmus.machine.vm import NAN, Int, Value, as_value

PAPER = {
    "34+7=.": True,
    "34+8=!.": True,
    "34+8=.": False,
    "12+0>": True,
    "941-*55*2+=": True,
    "941-*55*1+>.": True,
    "{41-*}9f55*1+>.": True,
    "9f55*2+={41-*}.": True,
    "3A4Bab+7=.": True,
    "(1,2,3,1I2=.": True,
    "{1>}(1,2,3,W#2=.": True,
    "{#1>}(1,2,3,f.": True,
    "(1,2,3,f1=(2,3,f1=(7,f0=(1,2,3,4,f1={#1>}.": True,
    "{1-:0>\\F}8f0=.": True,
    "{1-:0>\\F}9f0=.": False,
    "": False,
    ".": False,
    "+": False,
    "a": False,
    "10/.": False,
}

MAX = 2**31 - 1
BIGGEST = "84*:*84**:*1-2*1+"  # ((32 * 32 * 32)**2 - 1) * 2 + 1 = MAX
FULL = "84*r"  # 0, 1, ..., 31: a sequence of the greatest length
THIRTY_TWO = list(range(32))


@dataclass(frozen=True)
class Case:
    """A program, the rule that it shows, and its outputs, bottom first."""

    rule: str
    text: str
    outputs: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.rule} {self.text if len(self.text) < 40 else f'{len(self.text)} tokens'}"


def _cases(rule: str, table: dict[str, list]) -> list[Case]:
    return [Case(rule, text, tuple(map(as_value, outputs))) for text, outputs in table.items()]


def _tagged(*pairs: tuple[int, int]) -> list[Int]:
    return [Int(v, tag) for v, tag in pairs]


ARITHMETIC = [
    *_cases("digits", {str(d): [d] for d in range(10)}),
    *_cases("digits", {"0123456789": list(range(10))}),
    *_cases("+", {"34+": [7], "3~4+": [1], "3r1+": [[1, 2, 3]], "13r+": [[1, 2, 3]], "3r3r+": [[0, 2, 4]]}),
    *_cases("-", {"34-": [-1], "3r1-": [[-1, 0, 1]], "13r-": [[1, 0, -1]], "3r(1,1,1,-": [[-1, 0, 1]]}),
    *_cases("*", {"34*": [12], "3r2*": [[0, 2, 4]], "23r*": [[0, 2, 4]], "3r3r*": [[0, 1, 4]], "3~4*": [-12]}),
    *_cases("/", {"72/": [3], "7~2/": [-4], "72~/": [-4], "7~2~/": [3], "70/": [NAN], "07/": [0]}),
    *_cases("/", {"(4,6,2/": [[2, 3]], "9(1,2,/": [[9, 4]], "(8,9,(2,0,/": [NAN], "(8,9,(2,4,/": [[4, 2]]}),
    *_cases("%", {"72%": [1], "7~2%": [1], "72~%": [-1], "7~2~%": [-1], "70%": [NAN], "62%": [0]}),
    *_cases("%", {"5r2%": [[0, 1, 0, 1, 0]], "9(2,5,%": [[1, 4]], "(9,8,(2,3,%": [[1, 2]], "(9,8,(2,0,%": [NAN]}),
    *_cases("x", {"37x": [7], "73x": [7], "3~5~x": [-3], "5r2x": [[2, 2, 2, 3, 4]], "24rx": [[2, 2, 2, 3]]}),
    *_cases("n", {"37n": [3], "73n": [3], "3~5~n": [-5], "5r2n": [[0, 1, 2, 2, 2]], "3r(1,0,9,n": [[0, 0, 2]]}),
    *_cases("<", {"34<": [1], "43<": [0], "33<": [0], "4r2<": [[1, 1, 0, 0]], "24r<": [[0, 0, 0, 1]]}),
    *_cases(">", {"34>": [0], "43>": [1], "33>": [0], "4r2>": [[0, 0, 0, 1]], "3r(0,0,3,>": [[0, 1, 0]]}),
    *_cases("=", {"33=": [1], "34=": [0], "3r3r=": [[1, 1, 1]], "4r2=": [[0, 0, 1, 0]], "(1,2,(1,3,=": [[1, 0]]}),
    *_cases("!", {"0!": [1], "5!": [0], "5~!": [0], "3r!": [[1, 0, 0]], "(!": [[]]}),
    *_cases("~", {"5~": [-5], "0~": [0], "5~~": [5], "3r~": [[0, -1, -2]], "(~": [[]]}),
    *_cases("m", {"5~m": [5], "5m": [5], "0m": [0], "3r1-m": [[1, 0, 1]], "(m": [[]]}),
    *_cases("&", {"12&": [1], "10&": [0], "01&": [0], "00&": [0], "3r1&": [[0, 1, 1]], "3~2~&": [1]}),
    *_cases("|", {"12|": [1], "10|": [1], "01|": [1], "00|": [0], "3r0|": [[0, 1, 1]], "3r(1,0,0,|": [[1, 1, 1]]}),
]

STACK = [
    *_cases("?", {"123?": [2], "023?": [3], "(1,23?": [2], "(23?": [3], "(1,0,23?": [3], "1~23?": [2]}),
    *_cases(
        "? any types", {"1(2,3?": [[2]], "0(2,3?": [3], "13(2,?": [3], "152'3?": [Int(5, 2)], "0352'?": [Int(5, 2)]}
    ),
    *_cases("? NAN in the branch not taken", {"1210/?": [NAN], "010/2?": [NAN], "10/12?": [NAN], "1a2?": [NAN]}),
    *_cases(":", {"5:": [5, 5], "3r:": [[0, 1, 2], [0, 1, 2]], "52':": _tagged((5, 2), (5, 2))}),
    *_cases("\\", {"12\\": [2, 1], "52'1\\": [1, Int(5, 2)], "13r\\": [[0, 1, 2], 1], "123\\": [1, 3, 2]}),
    *_cases("@", {"123@": [2, 3, 1], "52'12@": [1, 2, Int(5, 2)], "1(2@": [[], 2, 1], "0123@": [0, 2, 3, 1]}),
    *_cases("o", {"12o": [1, 2, 1], "52'1o": [Int(5, 2), 1, Int(5, 2)], "(1o": [[], 1, []], "012o": [0, 1, 2, 1]}),
    *_cases(";", {"12;": [1], "1;": [], "3r;": [], ";": [], "10/;": [], "1;;2": [2]}),
]

REGISTERS = [
    *_cases("ABCD abcd", {"5A": [], "5Aa": [5], "1A2B3C4Dabcd": [1, 2, 3, 4], "1A2Aa": [2], "5Aaa": [5, 5]}),
    *_cases("register never stored", {"a": [NAN], "b": [NAN], "c": [NAN], "d": [NAN], "5Ab": [NAN]}),
    *_cases("a store writes NAN", {"5A10/Aa": [NAN], "5AAa": [NAN], "5B10/Bb": [NAN], "Cc": [NAN], "1D;Dd": [NAN]}),
    *_cases("a register holds any value", {"3rAa": [[0, 1, 2]], "52'Bb": [Int(5, 2)], "(52',Cc": [_tagged((5, 2))]}),
]

UNIFORM = [
    *_cases("U1", {token: [NAN] for token in "+-*/%xn<>=!~m&|?,rQ#ISXERTOPMWfghFGH'\""}),
    *_cases("U1", {":": [NAN] * 2, "\\": [NAN] * 2, "@": [NAN] * 3, "o": [NAN] * 3}),
    *_cases("U1 takes what there is", {"1+": [NAN], "12?": [NAN], "1\\": [NAN] * 2, "12@": [NAN] * 3, "1o": [NAN] * 3}),
    *_cases(
        "U1 takes what there is", {"3rQ": [NAN], "(,": [NAN], "3rI": [NAN], "3rE": [NAN], "5'": [NAN], "5F": [NAN]}
    ),
    *_cases("U2", {"10/5+": [NAN], "510/+": [NAN], "10/!": [NAN], "10/:": [NAN] * 2, "510/\\": [NAN] * 2}),
    *_cases("U2", {"1210/@": [NAN] * 3, "510/o": [NAN] * 3, "10/5o": [NAN] * 3, "10/r": [NAN], "3r10/,": [NAN]}),
    *_cases("U2", {"10/3,": [NAN], "3r10/Q": [NAN], "10/#": [NAN], "10/M": [NAN], '10/"': [NAN], "10/2'": [NAN]}),
    *_cases("U3 takes a Seq", {f"5{token}": [NAN] for token in "#SXRTOPMW"}),
    *_cases("U3 takes a Seq", {"12,": [NAN], "12Q": [NAN], "3r1Q": [NAN], "13rQ": [NAN], "52I": [NAN], "35E": [NAN]}),
    *_cases("U3 takes an Int", {"3rr": [NAN], "(3r,": [NAN], "3r3rI": [NAN], "3r3rE": [NAN], "53r'": [NAN]}),
    *_cases("U4 lengths", {"3r2r+": [NAN], "(2r+": [NAN], "2r(=": [NAN], "1r3r|": [NAN]}),
    *_cases("U4 empty", {"((+": [[]], "(5+": [[]], "5(+": [[]], "(0/": [[]], "0(%": [[]], "((/": [[]]}),
    *_cases("U4 one element's NAN", {"(7,0/": [NAN], "5(1,0,/": [NAN], "5r3r1-5Q%": [NAN], "3r0%": [NAN]}),
    *_cases("U4 sees v only", {"52'0+": [5], "95'4x": [9], "32'3=": [1], "52'~": [-5], "(52',0+": [[5]], "52'm": [5]}),
]

SEQUENCES = [
    *_cases("(", {"(": [[]], "((": [[], []]}),
    *_cases(
        ",", {"(5,": [[5]], "3r7,": [[0, 1, 2, 7]], "(52',": [_tagged((5, 2))], "(52',1,": [_tagged((5, 2), (1, 0))]}
    ),
    *_cases("r", {"0r": [[]], "1r": [[0]], "5r": [[0, 1, 2, 3, 4]], "1~r": [NAN], "32'r": [[0, 1, 2]]}),
    *_cases("Q", {"2r3rQ": [[0, 1, 0, 1, 2]], "((Q": [[]], "(2rQ": [[0, 1]], "(53',(1,Q": [_tagged((5, 3), (1, 0))]}),
    *_cases("#", {"(#": [0], "3r#": [3], FULL + "#": [32]}),
    *_cases("I", {"(7,8,9,0I": [7], "(7,8,9,2I": [9], "(7,8,9,3I": [NAN], "(7,8,9,1~I": [NAN], "(0I": [NAN]}),
    *_cases("I", {"(53',0I": [Int(5, 3)], "(7,8,13'I": [8]}),
    *_cases("S", {"5rS": [10], "(S": [0], "(53',S": [5], "(5,7~,S": [-2]}),
    *_cases("X", {"(3,9~,5,X": [5], "(3~,9~,X": [-3], "(X": [NAN], "(53',X": [5], "(0,X": [0]}),
    *_cases("E", {"5r3E": [1], "5r7E": [0], "(3E": [0], "(32',3E": [1], "3r22'E": [1], "3r0E": [1]}),
    *_cases("R", {"3rR": [[2, 1, 0]], "(R": [[]], "(52',1,R": [_tagged((1, 0), (5, 2))]}),
    *_cases("T", {"3rT": [[1, 2]], "(5,T": [[]], "(T": [NAN], "(5,62',T": [_tagged((6, 2))]}),
    *_cases("O", {"(3,1,2,O": [[1, 2, 3]], "(1~,2~,O": [[-2, -1]], "(O": [[]]}),
    *_cases("O is stable", {"(21',1,22',O": [_tagged((1, 0), (2, 1), (2, 2))]}),
    *_cases("O is stable", {"(22',21',1,O": [_tagged((1, 0), (2, 2), (2, 1))]}),
    *_cases("P", {"4rP": [[0, 1, 3, 6]], "(P": [[]], "(52',1,P": [[5, 6]], "(3,5~,P": [[3, -2]]}),
    *_cases("'", {"52'": [Int(5, 2)], "50'": [5], "59'": [Int(5, 9)], "594+'": [NAN], "51~'": [NAN], "591+'": [NAN]}),
    *_cases("'", {"52'3'": [Int(5, 3)], "523''": [Int(5, 2)], "3r4'": [_tagged((0, 4), (1, 4), (2, 4))], "(4'": [[]]}),
    *_cases("'", {"52'0'": [5], "(51',6,2'": [_tagged((5, 2), (6, 2))], "(91+'": [NAN]}),
    *_cases('"', {"52'\"": [2], '5"': [0], '3r"': [[0, 0, 0]], "(52',73',\"": [[2, 3]], '("': [[]], '52\'""': [0]}),
]

DEFINITIONS = [
    *_cases("before or after its use", {"{1+}3f": [4], "3f{1+}": [4], "3{1+}f": [4], "1{;}2": [1, 2]}),
    *_cases("bind f, g, h in order", {"{1+}{2+}3g": [5], "{1+}{2+}{3+}3h": [6], "3h3g3f{1+}{2+}{3+}": [6, 5, 4]}),
    *_cases("later ones bind nothing", {"{1+}{2+}{3+}{4+}3f3g3h": [4, 5, 6], "{}{}{}{;}5f": [5]}),
    *_cases("empty body", {"{}5f": [5], "5f{": [5], "{}3rf": [[0, 1, 2]]}),
    *_cases("unterminated", {"5f{1+": [6], "{": [], "{1": [], "5f{1+{": [6]}),
    *_cases("do not nest", {"{1{2}3}": [3], "{1{2}3f": [2], "{1{2}3}f": [2]}),
    *_cases("stray braces", {"5}": [5], "}": [], "}}}7": [7], "{{}5f": [5], "{{1+}5f": [6]}),
    *_cases("the first . ends the text", {".": [], "": [], "1.2": [1], "1..2": [1], "5f.{1+}": [NAN], "5f{1+.}": [6]}),
    *_cases("the first . ends the text", {"{.}": [], "{1.}5f": [], ".1": [], "12+.+": [3]}),
    *_cases("unbound", {"5f": [NAN], "{}5g": [NAN], "{}{}5h": [NAN], "15F": [NAN], "3rM": [NAN], "3rW": [NAN]}),
]

CALLS = [
    *_cases("a body has its own stack", {"12{+}3f": [1, 2, NAN], "12{:}3f": [1, 2, 3], "9{;;;7}3f": [9, 7]}),
    *_cases("the top is the result", {"{12}5f": [2], "{12;}5f": [1], "{3r}5f": [[0, 1, 2]], "{10/}5f": [NAN]}),
    *_cases("an empty stack gives NAN", {"{;}5f": [NAN], "{A}5f": [NAN], "{}{;}5g": [NAN], "{;}15F": [NAN]}),
    *_cases("registers are shared", {"{A}5fa": [NAN, 5], "{Aa1+}5fa": [6, 5], "7B{;b}5f": [7], "{1A2}3f{}a": [2, 1]}),
    *_cases("a NAN input does not run the body", {"{A7}10/fa": [NAN, NAN], "{7}10/f": [NAN], "{7}f": [NAN]}),
    *_cases("x keeps type and tag", {"{#}3rf": [3], "{}52'f": [Int(5, 2)], "{\"}52'f": [2]}),
    *_cases("FGH", {"{1+}15F": [6], "{1+}05F": [5], "{}{2*}15G": [10], "{}{}{3*}15H": [15], "{}{2*}05G": [5]}),
    *_cases("FGH: c by its truth", {"{1+}(5F": [5], "{1+}(1,5F": [6], "{1+}(1,0,5F": [5], "{1+}2~5F": [6]}),
    *_cases("FGH: no call", {"05F": [5], "052'F": [Int(5, 2)], "(5G": [5], "03rH": [[0, 1, 2]], "{A}05Fa": [5, NAN]}),
    *_cases("FGH: NAN", {"10/5F": [NAN], "{1+}010/F": [NAN], "{A}10/5Fa": [NAN, NAN], "15G": [NAN]}),
    *_cases("calls call", {"{g}{h}{1+}5f": [6], "{1+g}{2*}3f": [8], "{g1+}{2*}3f": [7]}),
    *_cases("8 calls", {"{1-:0>\\F}8f": [0], "{1-:0>\\F}9f": [NAN], "{1-:0>\\F}8f8f": [0, 0], "{rMS1+}7f": [128]}),
    *_cases("the ninth gives NAN", {"{rMS1+}8f": [NAN], "{1-:0>\\F;7}9f": [7], "{84*rM}1f(": [NAN, []]}),
    *_cases("calls nested in W", {"{rW#1+}7f": [8], "{rW#1+}8f": [NAN], "{rW#}3f": [0], "{f}1f": [NAN]}),
    *_cases(
        "M", {"{1+}3rM": [[1, 2, 3]], "{12}3rM": [[2, 2, 2]], "{}(52',M": [_tagged((5, 2))], "(M": [[]], "{;}(M": [[]]}
    ),
    *_cases("M: results keep their tags", {"{7'}3rM": [_tagged((0, 7), (1, 7), (2, 7))], "{\"}(52',73',M": [[2, 3]]}),
    *_cases("M: in order, registers shared", {"0B{b+Bb}4rM": [[0, 1, 3, 6]], "0B{b+Bb}4rMb": [[0, 1, 3, 6], 6]}),
    *_cases("M: unusable results", {"{;}3rM": [NAN], "{r}3rM": [NAN], "{2\\/}3rM": [NAN], "{(}1rM": [NAN]}),
    *_cases("M stops, registers stay", {"{A1a1-/}3rMa": [NAN, 1], "{A(}3rMa": [NAN, 0]}),
    *_cases(
        "W", {"{1>}4rW": [[2, 3]], "{}4rW": [[1, 2, 3]], "{\"}(52',7,W": [_tagged((5, 2))], "(W": [[]], "{;}(W": [[]]}
    ),
    *_cases("W: a Seq by its truth", {"{r}3rW": [[]], "{r1+}3rW": [[1, 2]], "{(}3rW": [[]]}),
    *_cases("W: NAN", {"{2\\/}3rW": [NAN], "{;}3rW": [NAN], "{A1a1-/}3rWa": [NAN, 1], "{10/}1rW": [NAN]}),
]

LIMITS = [
    *_cases("Int", {BIGGEST: [MAX], BIGGEST + "~": [-MAX], BIGGEST + "0+": [MAX], BIGGEST + "1+": [NAN]}),
    *_cases("Int", {BIGGEST + "~1-": [NAN], BIGGEST + "~0-": [-MAX], BIGGEST + "2*": [NAN], BIGGEST + ":*": [NAN]}),
    *_cases("Int", {"2:*:*:*:*": [65536], "2:*:*:*:*:*": [NAN], BIGGEST + "A3ra+": [NAN], BIGGEST + "A1ra+": [[MAX]]}),
    *_cases("Int: S counts the total", {BIGGEST + "A(a,1,S": [NAN], BIGGEST + "A(a,1,1~,S": [MAX]}),
    *_cases("Int: P counts every sum", {BIGGEST + "A(a,1,1~,P": [NAN], BIGGEST + "A(a,1~,1,P": [[MAX, MAX - 1, MAX]]}),
    *_cases("Int: P counts every sum", {BIGGEST + "~A(a,1~,P": [NAN], BIGGEST + "~A(a,1,P": [[-MAX, 1 - MAX]]}),
    *_cases("Int: a tag does not count", {BIGGEST + "9'": [Int(MAX, 9)], BIGGEST + "~9'": [Int(-MAX, 9)]}),
    *_cases("Int: / and % stay inside", {BIGGEST + "1~/": [-MAX], BIGGEST + "~1~/": [MAX], BIGGEST + "~2%": [1]}),
    *_cases("Seq: r", {FULL: [THIRTY_TWO], "84*1+r": [NAN], "84*1-r#": [31]}),
    *_cases("Seq: ,", {"84*1-r5,": [[*range(31), 5]], FULL + "5,": [NAN]}),
    *_cases(
        "Seq: Q",
        {"44*r:Q#": [32], "44*r44*1+rQ": [NAN], FULL + "(Q#": [32], FULL + "1rQ": [NAN], "(" + FULL + "Q#": [32]},
    ),
    *_cases("fuel: 4096 complete", {"}" * 4096: [], "1" + "}" * 4095: [1], "1" + "}" * 4096: [NAN]}),
    *_cases("fuel: bodies cost too", {"{" + "{" * 127 + "}84*rM" + "}" * 27: [THIRTY_TWO]}),  # 5 + 32 * 127 + 27 = 4096
    *_cases("fuel: bodies cost too", {"{" + "{" * 127 + "}84*rM" + "}" * 28: [NAN]}),
    *_cases(
        "fuel: a definition is free", {"{" + "1" * 99 + "}" + "}" * 4096: [], "}" * 4096 + "{" + "1" * 99 + "}": []}
    ),
    *_cases("fuel: the single NAN", {"123{;1f;1f;1f}1f": [NAN], "1A{;1f;1f;1f}1fa7": [NAN], "{;1f;1f;1f}1f(": [NAN]}),
]

CASES: tuple[Case, ...] = (
    *ARITHMETIC,
    *STACK,
    *REGISTERS,
    *UNIFORM,
    *SEQUENCES,
    *DEFINITIONS,
    *CALLS,
    *LIMITS,
)
