"""Settings of the documentation: `python -m sphinx -W -b html docs docs/_build`.

Sphinx with MyST's Markdown: released for years, strict (`-W` makes a broken
link or an unknown name an error), and built without a network. Zensical is
the younger choice, but still alpha; MkDocs and its Material theme are no
longer developed. Furo is a theme that loads nothing from other hosts.

Not here: what is generated from the code (`generated.py`).
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

sys.path.insert(0, str(Path(__file__).parent))
from generated import GENERATED  # Sphinx does not put its own folder on the path

project = "oread"
version = release = installed_version("oread")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "oread"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
autodoc_typehints_format = "short"

HANDED_OUT = {
    *("Attachment", "Client", "ItemStream", "Registration", "Service", "Subscription"),
    *("EventClient", "MemoryClient", "MemoryListeningSocket", "MemorySocket"),
}
"""Classes that oread makes and its users don't."""

_SECTIONS = Config(napoleon_custom_sections=["Cancellation", "Shapes", "Source"])
_PLACE = re.compile(r"^<!-- generated: (.+?) -->$", re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def _insert_generated(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Put what is made from the code where a page asks for it."""
    source[0] = _PLACE.sub(lambda found: GENERATED[found[1]](), source[0])


def _read_docstring(
    app: Sphinx, what: str, name: str, item: object, _options: object, lines: list[str]
) -> None:
    """Read our docstrings: Markdown's marks of code, Google's sections.

    Not by the extension itself: it takes "NAME: text" below a field for a type.
    """
    lines[:] = [_CODE.sub(r"``\1``", line) for line in lines]
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, _SECTIONS, app, what, name, item).lines()


def _hide_signature(_app: Sphinx, what: str, name: str, *_others: object) -> tuple[str, None] | None:
    """Show no constructor of what is only ever handed out."""
    return ("", None) if what == "class" and name.rpartition(".")[2] in HANDED_OUT else None


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", _insert_generated)
    app.connect("autodoc-process-docstring", _read_docstring)
    app.connect("autodoc-process-signature", _hide_signature)
