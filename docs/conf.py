"""How the site is built: `make docs`. Nothing is fetched, neither while it is built nor by its pages."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from hmp import __version__  # noqa: E402 - found by the line above

project = "hmp"
author = "The hmp-emulator founders"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx_click", "sphinx_copybutton", "hmp_reference", "hmp_try"]
exclude_patterns = ["_build", "_ext", "try/**"]
nitpicky = True
suppress_warnings: list[str] = []

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
highlight_language = "none"
smartquotes_action = "qe"  # no dashes: two hyphens begin an option

# Of a transcript the commands are copied, without prompts and without what they print.
copybutton_prompt_text = r"\$ |> "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = "hmp"
html_static_path = ["_static"]
html_css_files = ["hmp.css"]
html_copy_source = False
html_use_index = False  # it would list the options again
html_show_sourcelink = False
