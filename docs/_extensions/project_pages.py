"""Pages that the site has besides those of docs/: the reference of the library, the map, and the project's own pages.

Before Sphinx reads anything, `write_pages` fills docs/generated (which git ignores): a page per room and per module of
the three packages, whose text is their docstrings, and copies of docs/index.md, CONTRIBUTING.md and CHANGELOG.md.
Links of docs/ that lead out of it lead to these pages: `../cadmus/machine/vm.py` to the module's reference,
`../reports/report.md` to the report itself, which lies beside the built pages. Code in the text that is the full name
of something documented links there.
"""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
_SKLEARN = ", ".join(f"set_{method}_request" for method in ("fit", "partial_fit", "predict", "score", "transform"))
_MEMBERS = f":members:\n   :exclude-members: {_SKLEARN}"  # requests are no part of a probe
PACKAGES = ("cadmus", "probes", "analyses")
COPIES = {"docs/index.md": "map", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
PAGES = {"README.md": "/home", "analyses/commands/__init__.py": "/generated/commands"}
_FULL_NAME = re.compile(r"(cadmus|probes|analyses)(\.[A-Za-z_]\w*)+")
_EMPHASIS = re.compile(r"(?<![\w*])\\\*(\w(?:[\w -]*\w)?)\\\*(?![\w*])")  # its asterisks escaped
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)")


# --- pages that are made ---------------------------------------------------------------------------------------------


def write_pages(app) -> None:
    """Fill docs/generated; files that would say the same are left alone, those of modules that are gone are removed."""
    pages = {f"{name}.md": _copied(ROOT / source) for source, name in COPIES.items()}
    pages["commands.md"] = commands_page()
    for package in PACKAGES:
        pages |= _reference(package)
    for path in GENERATED.rglob("*.*"):
        if str(path.relative_to(GENERATED)) not in pages:
            path.unlink()
    for name, text in pages.items():
        path = GENERATED / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def _copied(source: Path) -> str:
    """The text of a page of the project, its links as seen from docs/generated."""

    def seen_from_here(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match[1].partition("#")
        target = source.parent / path
        while target.is_dir():  # a folder's page is that of its package, or of the package that it lies in
            init = target / "__init__.py"
            target = init if init.exists() else target.parent.resolve()
        return f"]({os.path.relpath(target, GENERATED)}{hash_sign}{anchor})"

    text = source.read_text(encoding="utf-8")
    page, *parts = re.split(r"(?m)^(?=# )", text)[1:]  # a page of the site has one title: parts are beneath it
    text = page + "".join(re.sub("(?m)^#", "##", part) for part in parts)
    return _LINK.sub(seen_from_here, text)


def commands_page() -> str:
    """The command and its options as Markdown, from the help texts themselves."""
    import typer

    from analyses.cli import app

    root = typer.main.get_command(app)
    text = [
        "# Commands\n",
        "What `cadmus-probe COMMAND --help` says. Errors are one line and exit code 2; `--debug` shows the rest.\n",
    ]
    for words, command in _commands(root, ()):
        text.append(f"## {' '.join(words)}\n\n{_prose(command.help or '')}\n")
        rows = [row for row in map(_parameter_row, command.params) if row]
        if rows:
            text.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    return "\n".join(text)


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands beneath one, in the order of its help, each with the words that call it."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name in command.commands:
        yield from _commands(command.commands[name], (*words, name))


def _parameter_row(parameter: Any) -> str:
    """A row of an option or argument: how it is written, its default, what it says; empty for --help."""
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return ""
    is_option = parameter.param_type_name == "option"
    written = parameter.opts[0] if is_option else parameter.name.upper()
    default = parameter.default
    plain = default is not None and not callable(default) and not isinstance(default, bool) and str(default)
    said = f" Default: `{default}`." if plain else ""
    return f"| `{written}` | {_prose(getattr(parameter, 'help', None) or '')}{said} |"


def _prose(text: str) -> str:
    """Help as Markdown: paragraphs on one line each, nothing in it read as markup."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.replace("\b", "").split("\n\n"))
    escaped = (re.sub(r"([*_|<>\[\]`])", r"\\\1", paragraph) for paragraph in paragraphs)
    return "\n\n".join(re.sub(r"^Example: (cadmus-probe [^(,]*)$", _as_code, paragraph) for paragraph in escaped)


def _as_code(match: re.Match[str]) -> str:
    """An example of the help, which stands there as one line, as code."""
    return "    " + re.sub(r"\\(.)", r"\1", match[1])


def _reference(package: str) -> dict[str, str]:
    """The pages of a package: one per folder, which lists what lies in it, and one per module, by file name."""
    folder = ROOT / package
    pages: dict[str, str] = {}
    inside = []
    for module in pkgutil.iter_modules([str(folder)]):
        name = f"{package}/{module.name}"
        if module.ispkg:
            pages |= _reference(name)
        elif module.name != "__main__":
            pages[f"api/{_dotted(name)}.rst"] = _module_page(_dotted(name), _MEMBERS)
        else:
            continue
        inside.append(_dotted(name))
    entries = "".join(f"   {name.rpartition('.')[2]} <{name}>\n" for name in inside)
    contents = f".. toctree::\n   :maxdepth: 1\n\n{entries}"
    pages[f"api/{_dotted(package)}.rst"] = _module_page(_dotted(package), "") + (f"\n{contents}" if inside else "")
    return pages


def _dotted(path: str) -> str:
    return path.replace("/", ".")


def _module_page(name: str, options: str) -> str:
    if find_spec(name) is None:
        raise ModuleNotFoundError(f"{name} is not importable, so that the reference cannot be made of it")
    title = name.replace("_", "\\_")
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n   {options}".rstrip() + "\n"


# --- docstrings ------------------------------------------------------------------------------------------------------

_NAPOLEON: Any = Config(napoleon_numpy_docstring=False, napoleon_use_rtype=False)


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are sentences with code in single backticks, lists, columns, and Google's sections. What else
    reStructuredText would take for markup is escaped, and the full name of something documented becomes a link."""
    lines[:] = _escaped(_separated("\n".join(lines))).split("\n")
    if what not in ("attribute", "property", "data"):  # there Google's style has a type in front of a colon
        lines[:] = GoogleDocstring(lines, _NAPOLEON, app, what, name, obj, options).lines()


def _separated(text: str) -> str:
    """The text with blank lines where a list begins behind a sentence, and with its columns as a literal block."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        rows = paragraph.split("\n")
        if re.match(r"\S+ {2,}\S", rows[0]) or (len(rows) > 1 and re.match(r"\S+ {3,}\S", rows[1])):
            paragraph = "\n".join(["::", "", *(f"    {row}" for row in rows)])
        else:
            paragraph = re.sub(r"(?m)^((?![-\s]).*)\n(?=- )", r"\1\n\n", paragraph)
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def _escaped(text: str) -> str:
    """The text with its markup escaped, but for code, outside of literal blocks and examples."""
    if "::\n" in text or "``" in text or ">>> " in text or text.count("`") % 2:
        return "\n\n".join(part if part.startswith((" ", "::")) else _marked(part) for part in text.split("\n\n"))
    return _marked(text)


def _marked(text: str) -> str:
    parts = text.split("`")
    if len(parts) % 2 == 0 or "``" in text or ">>> " in text:
        return text
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = _EMPHASIS.sub(r"*\1*", re.sub(r"([\\*|]|_(?!\w))", r"\\\1", part))
        else:
            code = " ".join(part.split())
            role = ":py:obj:" if _FULL_NAME.fullmatch(code) else ":code:"
            before = "\\ " if parts[i - 1][-1:].isalnum() else ""
            after = "\\ " if re.match(r"\w", parts[i + 1]) else ""
            parts[i] = f"{before}{role}`{code.replace(chr(92), chr(92) * 2)}`{after}"
    return "".join(parts)


# --- links -----------------------------------------------------------------------------------------------------------


class LinksOutOfDocs(SphinxTransform):
    """Links to files of the project lead to their pages of the site, where they have one."""

    default_priority = 500

    def apply(self, **kwargs) -> None:
        for link in list(self.document.findall(addnodes.download_reference)):
            self._lead(link, link["reftarget"], link["reftarget"].startswith("/"))
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("refdomain") == "doc":  # MyST's, of a link to another Markdown file, whose end it leaves out
                self._lead(link, link["reftarget"] + ".md", True)

    def _lead(self, link: nodes.Element, path: str, from_docs: bool) -> None:
        folder = DOCS if from_docs else (DOCS / self.env.docname).parent
        resolved = Path(path) if path.startswith(str(ROOT)) else folder / path.lstrip("/")
        page = self._page(os.path.relpath(resolved, ROOT))
        if page is not None:
            page += [child.deepcopy() for child in link.children]
            link.replace_self(page)

    def _page(self, path: str) -> nodes.Element | None:
        """A link to the page of a file, given relative to the project; None where it has none of its own."""
        top = path.partition("/")[0]
        if path in PAGES:
            target = PAGES[path]
        elif path in COPIES:
            target = f"/generated/{COPIES[path]}"
        elif top in PACKAGES and path.endswith(".py"):
            target = f"/generated/api/{_dotted(path.removesuffix('.py').removesuffix('/__init__'))}"
        elif top == "reports" and path.endswith("report.md"):
            up = "../" * self.env.docname.count("/")
            return nodes.reference("", "", refuri=up + path.removesuffix("report.md") + "index.html", internal=True)
        else:
            return None
        options = {"refdoc": self.env.docname, "refexplicit": True, "refwarn": True}
        return addnodes.pending_xref("", refdomain="std", reftype="doc", reftarget=target, **options)


class CodeThatNamesSomething(SphinxPostTransform):
    """Code in the text that is the full name of a documented module, class or function links to it."""

    default_priority = 5

    def run(self, **kwargs) -> None:
        objects = self.env.domains.python_domain.objects
        for code in list(self.document.findall(nodes.literal)):
            name = code.astext()
            inside_link = isinstance(code.parent, (nodes.reference, addnodes.pending_xref, nodes.title))
            if name in objects and "." in name and not inside_link:
                entry = objects[name]
                uri = self.app.builder.get_relative_uri(self.env.current_document.docname, entry.docname)
                link = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry.node_id}")
                code.replace_self(link)
                link += code


def copy_reports(app, exception: Exception | None) -> None:
    """Put the committed reports beside the pages, where links to them lead."""
    if exception is None and app.builder.format == "html":
        shutil.copytree(ROOT / "reports", Path(app.outdir) / "reports", dirs_exist_ok=True)


def level_captions(app, pagename: str, templatename: str, context: dict[str, Any], doctree) -> None:
    """Give the captions beside a page a level: they are marked as headings, and screen readers ask for it."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app) -> dict[str, bool]:
    """Register all of it with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
    app.connect("build-finished", copy_reports)
    app.connect("html-page-context", level_captions, priority=900)  # the theme has made the captions by then
    app.add_transform(LinksOutOfDocs)
    app.add_post_transform(CodeThatNamesSomething)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
