"""How the documentation is built: Sphinx reads the pages in Markdown (MyST); the theme is furo. `make docs` runs it."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Leakboard"
author = copyright = "The Leakboard maintainers"
version = release = installed("leakboard")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_the_code"]
exclude_patterns = ["generated/*"]  # parts of pages, which from_the_code writes
suppress_warnings = ["myst.header"]  # parts begin with the headings that their place in a page asks for

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 140
toc_object_entries_show_parents = "hide"
napoleon_use_rtype = False
default_role = "code"  # docstrings write names of commands in single ticks

html_theme = "furo"
html_title = "Leakboard"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
