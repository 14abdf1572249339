"""Sphinx's configuration. `make docs` builds the site into build/docs."""

import re

import cpool

project = "cpool"
release = version = cpool.__version__
html_title = "cpool"
html_show_copyright = False
html_copy_source = False
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["benchmarks/*.md"]  # included by a page
default_role = "code"  # docstrings put names between single backticks
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"
python_maximum_signature_line_length = 88


def _name_parameters(_app, _what, _name, _object, _options, lines):
    """Turn the lines `name: what it is`, or `name, name: ...`, of a docstring into a list of
    parameters."""
    for number, line in enumerate(lines):
        found = re.match(r"([a-z_]+(?:, [a-z_]+)*): (?=\S)", line)
        if found and (number == 0 or not lines[number - 1] or lines[number - 1][0] in ": "):
            names = found[1].replace(" ", "")  # what is before a space would be a type
            lines[number] = f":param {names}: {line[found.end() :]}"


def setup(app):
    """Connect what is above."""
    app.connect("autodoc-process-docstring", _name_parameters)
