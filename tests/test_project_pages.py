"""What the site of the documentation makes of docstrings, of links and of the command's help."""

import sys

import pytest

from tests.pages import DOCS, ROOT

pytest.importorskip("sphinx", reason="make docs installs what builds the site")
sys.path.append(str(DOCS / "_extensions"))
import project_pages


def marked(text):
    return project_pages._escaped(project_pages._separated(text))


def test_what_would_be_markup_is_escaped_outside_of_code():
    assert marked("Of x_ and |v| and 2 * 3, `a * b`.") == r"Of x\_ and \|v\| and 2 \* 3, :code:`a * b`."
    assert marked("A *place* of x, with *args and **kwargs.") == r"A *place* of x, with \*args and \*\*kwargs."
    assert marked("The `site`s of `name`_low.") == r"The :code:`site`\ s of :code:`name`\ _low."


def test_full_names_become_links_and_code_stays_code():
    assert marked("See `cadmus.machine.vm.run` and `run`.") == "See :py:obj:`cadmus.machine.vm.run` and :code:`run`."
    assert marked(r"The token `\`.") == r"The token :code:`\\`."


def test_lists_and_columns_keep_their_lines():
    assert marked("What differs:\n- one\n- two") == "What differs:\n\n- one\n- two"
    assert marked("Rows.\n\narose    A value.\nloaded   The copy,\n         more.") == (
        "Rows.\n\n::\n\n    arose    A value.\n    loaded   The copy,\n             more."
    )


def test_links_of_copied_pages_lead_where_they_led():
    text = project_pages._copied(ROOT / "docs" / "index.md")
    assert "](../machine.md)" in text
    assert "](../../cadmus/machine/vm.py)" in text
    for link in project_pages._LINK.findall(text):
        assert (project_pages.GENERATED / link.partition("#")[0]).exists() or ".." in link, link


def test_every_command_is_on_its_page():
    text = project_pages.commands_page()
    for name in ("vm", "probe", "intervene", "data knobs"):
        assert f"\n## {name}\n" in text
    assert "| `--where` |" in text
    assert "\n    cadmus-probe vm '[3A4Bab+7=.]'\n" in text


def test_every_module_has_a_page():
    pages = project_pages._reference("cadmus")
    assert "api/cadmus.machine.vm.rst" in pages
    assert "   vm <cadmus.machine.vm>\n" in pages["api/cadmus.machine.rst"]


def test_captions_beside_a_page_have_a_level():
    context = {"furo_navigation_tree": '<p class="caption" role="heading"><span>Learn</span></p>'}
    project_pages.level_captions(None, "home", "page.html", context, None)
    assert context["furo_navigation_tree"].startswith('<p class="caption" role="heading" aria-level="2">')
