"""One self-contained HTML file of the page's parts: its HTML, its style, its modules, and what they are given.

The modules are ordinary ECMAScript modules that import one another by name. In the file each is a function of its own
that returns what it exports, in the order of their imports; nothing else of them is changed. Nothing is fetched: a
content security policy forbids it.
"""

from __future__ import annotations

import json
import re
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "page"
MAIN = "app"
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.mjs";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|const|class) ([\w$]+))", re.MULTILINE)
_SLOT = re.compile(r"<!-- (style|modules|data|tensors|title) -->")


def modules() -> dict[str, str]:
    """The modules that the page runs, as they stand in it, in the order of their imports."""
    sources: dict[str, str] = {}
    pending = [MAIN]
    while pending:
        name = pending.pop()
        if name not in sources:
            sources[name] = (PAGE / f"{name}.mjs").read_text(encoding="utf-8")
            pending += [imported for _, imported in _IMPORT.findall(sources[name])]
    needs = {name: {imported for _, imported in _IMPORT.findall(source)} for name, source in sources.items()}
    return {name: _as_function(name, sources[name]) for name in TopologicalSorter(needs).static_order()}


def _as_function(name: str, source: str) -> str:
    """A module as a function that returns its exports. ValueError for an import or export of another form."""
    exports = [exported for _, exported in _EXPORT.findall(source)]
    inside = _EXPORT.sub(r"\1", _IMPORT.sub(lambda match: f"const {{{match[1]}}} = {match[2]}_module;", source)).strip()
    other = re.search(r"^(import|export)\b.*$", inside, re.MULTILINE)
    if other:
        raise ValueError(
            f'{name}.mjs has {other[0]!r}; a page\'s module has import {{NAMES}} from "./FILE.mjs" and export'
        )
    return f"const {name}_module = (() => {{\n{inside}\nreturn {{ {', '.join(exports)} }};\n}})();"


def html(title: str, data: dict[str, Any], tensors: str) -> str:
    """The file. title: of the window; data: what JSON holds; tensors: numbers in base64."""
    scripts = "\n\n".join(f"// ===== {name}.mjs =====\n\n{source}" for name, source in modules().items())
    parts = {
        "title": escape(title, quote=False),
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        "modules": scripts,
        "data": in_script(data),
        "tensors": tensors,
    }
    return _SLOT.sub(lambda slot: parts[slot[1]], (PAGE / "page.html").read_text(encoding="utf-8"))


def in_script(data: Any) -> str:
    """JSON that may stand in a script element: no `<` in it begins a tag."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
