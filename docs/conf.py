"""The site's settings: `nox -s docs` builds it in `site/`.

The source folder is the whole repository, so that the documents beside the code (`bench/`,
`tests/`, ...) are pages too, and a link between two of them is the same here and on a code host.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "extensions"))
sys.path.insert(0, str(HERE.parent))

import xpnet  # noqa: E402

project = "xpnet"
author = "The xpnet authors"
copyright = author
release = version = xpnet.__version__

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "bench/**.md",
    "data/README.md",
    "tests/*.md",
    "tests/support/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "runs", "site", "**/__pycache__", "docs/extensions"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "markdown_docstrings",
    "code_links",
]

# Markdown, with formulas and anchors of headings as code hosts have them.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
myst_dmath_double_inline = False

# The API reference: whatever has a docstring of its own.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
viewcode_line_numbers = True

# A type that is not on a page has no link: those of other libraries, and those that users do not
# make themselves. Any other name that cannot be linked is an error.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|pathlib|collections|contextlib|sklearn|nn)\..*"),
    (
        "py:.*",
        r"xpnet\.(network|layers|training|distributed)\.(prediction|images|ranks|group)\.\w+",
    ),
]

# MathJax comes with the site; a page without formulas does not load it.
MATHJAX = distribution("sphinx-mathjax-offline").locate_file(
    "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
)
html_static_path = [str(MATHJAX), "static"]
mathjax_path = "tex-svg.js"

html_theme = "pydata_sphinx_theme"
html_title = "xpnet"
html_context = {"default_mode": "auto"}
templates_path = ["templates"]
html_css_files = ["xpnet.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_extra_path = ["start"]
html_theme_options = {
    "navbar_align": "left",
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"**": ["contents.html"]}
