"""How the documentation is built: `make docs` writes build/docs/html, which opens from disk and asks nothing of the
network.

Pages are Markdown (MyST) and notebooks that are shown as they are stored; the reference of the library is made of its
docstrings. `project_pages` makes the pages that lie outside of this folder part of the site, and its links resolve.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_extensions")]

import cadmus  # noqa: E402  (the checkout's, not one that is installed elsewhere)

project = "Cadmus"
author = "The cadmus-probe authors"
project_copyright = author
version = release = cadmus.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_nb", "project_pages"]
root_doc = "home"
smartquotes = False  # they would join the two hyphens of an option
exclude_patterns = ["index.md", "_*"]  # index.md becomes the page generated/map

myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are run by tests/test_notebooks.py, and stored with what they gave
nb_number_source_lines = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "Cadmus"
html_theme_options = {"light_css_variables": {"color-code-background": "#f5f6f8"}}  # to be told from the page
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False
html_last_updated_fmt = None
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
