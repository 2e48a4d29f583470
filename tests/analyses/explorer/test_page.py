"""The page as a person uses it: typing, clicking, keys, links, a phone; what is hostile stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cadmus.machine import vm
from tests import accessibility
from tests.analyses.explorer import browser
from tests.analyses.explorer.browser import Tab

pytestmark = [browser.needs_browser, pytest.mark.slow]
PROGRAM = "3A4Bab+7="


def _row(tab: Tab, name: str) -> list[str]:
    """The cells of the row with that label."""
    return tab.page.evaluate(
        """name => [...document.querySelectorAll("#score tr")].filter(row => row.cells[0]?.innerText.startsWith(name))
           .flatMap(row => [...row.cells].slice(1).map(cell => cell.innerText))""",
        name,
    )


def _fragment(program: str, acts: list[list[Any]], **fields: Any) -> str:
    parts = {"p": program, **fields}
    words = [f"{name}={quote(str(value))}" for name, value in parts.items()]
    return "&".join([*words, *(f"e={quote(json.dumps(act))}" for act in acts)])


def test_it_shows_the_machines_states(tab: Tab) -> None:
    tops = [str(state.stack[-1]) if state.stack else "" for state in vm.run(PROGRAM).states]
    assert _row(tab, "stack top") == ["", *tops]
    assert _row(tab, "register b") == ["", *(str(state.registers["b"]) for state in vm.run(PROGRAM).states)]
    assert "leaves 1 — true" in tab.text("#verdict")


def test_typing_runs_the_program(tab: Tab) -> None:
    tab.type("34+8=")
    assert "leaves 0 — false" in tab.text("#verdict")
    assert tab.view["token"] == 4
    tab.page.type(browser.TYPING, "!")
    assert "leaves 1 — true" in tab.text("#verdict")
    assert tab.page.input_value(browser.TYPING) == "34+8=!"


def test_what_is_no_program_is_said_in_a_line(tab: Tab) -> None:
    tab.type("34é")
    assert tab.text("#fault") == "“é” at position 2 is not one of the 65 instructions; take it out"
    assert not tab.page.is_visible("#work")
    tab.type("1" * 200)
    assert "tokens at most" in tab.text("#fault")
    tab.type("34+")
    assert tab.text("#fault") == ""
    assert tab.page.is_visible("#score")


def test_an_empty_program_and_odd_ones_are_shown(tab: Tab) -> None:
    for program in ("", ".", "{", "}}", "{1-:0>F}8f0=.", "(1,2,3,", "abcd", "3.4"):
        tab.type(program)
        assert tab.page.is_visible("#score"), program
        tab.press("ArrowLeft", "ArrowRight", "Home", "End", "e", "Escape", "]", "s")


def test_a_value_is_set_by_clicking_it(tab: Tab) -> None:
    tab.type("34+8=!")
    tab.page.click('[data-key="value stack.0 2"]')
    tab.page.keyboard.type("8")
    tab.page.select_option('[data-key="how"]', "machine")
    tab.page.click('[data-key="set"]')
    assert "After the edit: 0 — false" in tab.text("#verdict")
    assert _row(tab, "stack top")[3].split() == ["7", "→", "8"]
    assert tab.text(".acts").startswith("top of the stack at “+” (2): 7 → 8, machine only")
    tab.page.click('[data-key="remove 0"]')
    assert "After the edit" not in tab.text("#verdict")
    assert tab.view["acts"] == []


def test_an_exchange_takes_a_source_in_which_the_value_is_so(tab: Tab) -> None:
    tab.type("34+7=")
    tab.page.click('[data-key="value stack.0 2"]')
    tab.page.keyboard.type("9")
    tab.page.click('[data-key="set"]')
    (act,) = tab.view["acts"]
    source = act["source"]
    assert len(source) == 5
    assert source != "34+7="
    assert str(vm.run(source).states[2].stack[-1]) == "9"
    assert "with the changes" in tab.text("#answer")


def test_steering_makes_the_probe_read_the_value(tab: Tab) -> None:
    tab.type("34+7=")
    tab.page.click('[data-key="layer 1"]')
    tab.page.click('[data-key="value stack.0 2"]')
    tab.page.keyboard.type("5")
    tab.page.select_option('[data-key="how"]', "steer")
    tab.page.click('[data-key="set"]')
    assert _row(tab, "layer 1")[3] == "5"


def test_a_value_that_is_none_cannot_be_set(tab: Tab) -> None:
    tab.type("34+7=")
    tab.page.click('[data-key="value stack.0 2"]')
    assert tab.page.is_disabled('[data-key="set"]')
    tab.page.keyboard.type("seven")
    assert tab.page.is_disabled('[data-key="set"]')
    assert "integer" in tab.text("#change")
    tab.page.fill('[data-key="new value"]', "7")
    assert "That is what it holds" in tab.text("#change")


def test_the_value_can_be_edited_where_it_has_another_role(tab: Tab) -> None:
    tab.page.click('[data-key="value reg.a 1"]')
    roles = tab.page.inner_text('[data-key="occurrence"]').split("\n")
    assert [role.split(":")[0] for role in roles][:2] == ["where it is stored", "where it is made"]
    assert any(role.startswith("where it is loaded: “a” (4)") for role in roles)


def test_attention_is_blocked_by_clicking_an_arc_or_in_the_list(tab: Tab) -> None:
    tab.page.click('[data-key="head 0 1"]') if tab.view["head"] != [0, 1] else None
    tab.page.click('#heads button:text-is("block")')
    (act,) = tab.view["acts"]
    assert act["kind"] == "block"
    assert act["layer"] == 0
    assert act["head"] == 1
    assert act["query"] == 8
    assert tab.page.evaluate(f"explorer.session.changed.pattern(0, 1, 9)[{act['key'] + 1}]") == 0
    tab.page.click('#heads button:text-is("unblock")')
    assert tab.view["acts"] == []
    tab.page.evaluate("document.querySelector('.here .hit').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert len(tab.view["acts"]) == 1


def test_a_second_program_is_patched_in(tab: Tab) -> None:
    tab.type("34+7=")
    tab.page.click("summary:has-text('second program')")
    tab.page.fill('[data-key="source"]', "92-7=")
    assert tab.page.evaluate("document.activeElement.dataset.key") == "source"  # typing goes on
    tab.page.select_option('[data-key="part"]', "z0")
    tab.page.click('[data-key="patch"]')
    (act,) = tab.view["acts"]
    assert (act["token"], act["from"], act["source"], act["part"]) == (4, 4, "92-7=", "z0")
    layer = act["layer"]
    values = tab.page.evaluate(
        "layer => [explorer.session.changed, explorer.session.sources.get('92-7=')]"
        ".map(run => [...run.at(`blocks.${layer}.attn.hook_z`, 5)])",
        layer,
    )
    width = 32
    assert values[0][:width] == values[1][:width]
    assert values[0][width:] != values[1][width:]


def test_keys_step_through_tokens_layers_heads_and_places(tab: Tab) -> None:
    assert tab.view["token"] == 8
    tab.press("ArrowLeft", "ArrowLeft")
    assert tab.view["token"] == 6
    tab.press("Home")
    assert tab.view["token"] == -1
    tab.press("ArrowLeft", "End", "ArrowRight")
    assert tab.view["token"] == 8
    layer = tab.view["layer"]
    tab.press("ArrowUp")
    assert tab.view["layer"] == layer - 1
    tab.press(*["ArrowDown"] * 20)
    assert tab.view["layer"] == tab.page.evaluate("explorer.data.config.n_layers") - 1
    head = tab.view["head"]
    tab.press("]", "[")
    assert tab.view["head"] == head
    tab.press("s")
    assert tab.view["place"] == "stack.1"
    tab.press("/")
    assert tab.page.evaluate("document.activeElement.id") == "program"


def test_the_arrow_keys_belong_to_the_field_that_is_typed_in(tab: Tab) -> None:
    tab.page.focus(browser.TYPING)
    tab.page.keyboard.press("ArrowLeft")
    assert tab.view["token"] == 8


def test_the_focus_stays_on_what_was_pressed(tab: Tab) -> None:
    tab.page.focus('[data-key="place reg.a"]')
    tab.page.keyboard.press("Enter")
    assert tab.view["place"] == "reg.a"
    assert tab.page.evaluate("document.activeElement.dataset.key") == "place reg.a"


def test_help_opens_and_closes(tab: Tab) -> None:
    tab.press("?")
    assert tab.page.is_visible("#help")
    assert "Share" in tab.text("#help")
    tab.page.keyboard.press("Escape")
    assert not tab.page.is_visible("#help")


def test_an_address_holds_the_whole_view(tab: Tab, page_file: Path) -> None:
    acts = [["set", 2, 2, "stack.0", "9", 1, "exchange", "36+7="], ["block", 4, 2, -1, -1]]
    acts.append(["patch", 1, 1, "92-7=", "mlp", 0])
    tab.open(page_file, _fragment("34+7=", acts, t=3, l=1, v="stack.1", h="1.0"))
    view = tab.view
    assert (view["program"], view["token"], view["layer"], view["place"], view["head"]) == (
        "34+7=",
        3,
        1,
        "stack.1",
        [1, 0],
    )
    assert [act["kind"] for act in view["acts"]] == ["set", "block", "patch"]
    fragment = tab.page.evaluate("location.hash.slice(1)")
    tab.open(page_file, fragment)
    assert tab.view == view


@pytest.mark.parametrize(
    "fragment",
    [
        "p=%E0%A4%A",
        "p=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
        "p=" + "9" * 5000,
        "p=34%2B7%3D&t=99999&l=-7&v=__proto__&h=9.9&h=x",
        "p=34%2B7%3D&e=%5B%5D&e=null&e=%7B%7D&e=%5B%22set%22%5D&e=%5B%22toString%22%5D&e=[",
        _fragment("34+7=", [["set", 2, 2, "stack.0", "<b>9</b>", 1, "exchange", "36+7="]]),
        _fragment("34+7=", [["set", 2, 2, "stack.0", "9", 1, "constructor", "36+7="]]),
        _fragment("34+7=", [["set", 2, 2, "stack.7", "9", 1, "exchange", "<i>6+7="]] * 30),
        _fragment("34+7=", [["patch", 2, 40, "92-7=", "z99", 1], ["patch", 2, 40, "9", "attn", -1]]),
        _fragment("34+7=", [["patch", 2, 40, "92-7=", "stream", 1], ["block", 2, 4, 0, 0], ["block", 2, 2, 0, 0]]),
        "&&==&p",
        "#" * 50,
    ],
)
def test_what_an_address_says_is_checked(tab: Tab, page_file: Path, fragment: str) -> None:
    tab.open(page_file, fragment)
    assert tab.page.evaluate("document.querySelectorAll('img, b b, i i').length") == 0
    tab.press("ArrowLeft", "ArrowRight")


def test_hostile_programs_and_presets_are_text(tab: Tab) -> None:
    tab.type("<img src=x onerror=alert(1)>")
    assert "at position" in tab.text("#fault")
    assert tab.page.evaluate("document.querySelectorAll('img').length") == 0
    tab.type("34+7=")
    tab.page.select_option('[data-key="preset"]', "0")
    assert tab.text("#preset-words") == "</script><i>words</i>"
    assert tab.view["token"] == 2
    assert tab.view["layer"] == 0
    assert tab.page.title() == "A <title>"


@pytest.mark.parametrize("width", [390, 820])
def test_it_fits_narrow_screens(chromium: Any, page_file: Path, width: int) -> None:
    with browser.tab(chromium, viewport={"width": width, "height": 844}, has_touch=True) as tab:
        tab.open(page_file, _fragment("{41-*}9f55*1+>(1,2,3,1I2=", [["set", 8, 8, "stack.0", "9", 1, "machine", ""]]))
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        tab.page.tap('[data-key="token 3"]')
        assert tab.view["token"] == 3
        assert tab.page.locator('[data-key="token 3"]').bounding_box()["x"] >= 0
        tab.check()


def test_it_has_a_dark_side(chromium: Any, page_file: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        with browser.tab(chromium, color_scheme=scheme) as tab:
            tab.open(page_file)
            colours.append(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_paper_is_white_whatever_the_screen_is_and_keeps_the_legend(chromium: Any, page_file: Path) -> None:
    with browser.tab(chromium, color_scheme="dark") as tab:
        tab.open(page_file).page.emulate_media(media="print", color_scheme="dark")
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.page.is_visible(".key")


def test_whatever_can_be_pressed_has_a_name(tab: Tab) -> None:
    nameless = tab.page.evaluate(
        """[...document.querySelectorAll("button, select, input, summary")]
           .filter(element => !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
           .map(element => element.outerHTML)"""
    )
    assert nameless == []


@accessibility.every_view
def test_axe_finds_nothing_serious(chromium: Any, page_file: Path, device: str, scheme: str) -> None:
    acts = [["set", 2, 2, "stack.0", "9", 1, "exchange", "36+7="], ["block", 4, 2, 0, 1]]
    with accessibility.view(chromium, device, scheme) as tab:
        tab.open(page_file, _fragment("34+7=", acts, t=4, h="0.1"))
        assert accessibility.findings(tab.page) == []
        tab.press("?")
        assert accessibility.findings(tab.page) == []
        tab.check()
