"""The settings of Sphinx; `python -m docs.generate` stages the sources, `make docs` does everything."""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
# Importing the library must not take an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtl  # noqa: E402
from docs.generate import extension  # noqa: E402

project = "jaxtl"
author = "the authors of jaxtl"
copyright = "the authors of jaxtl"
version = release = jaxtl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
nitpicky = False
default_role = "py:obj"
# Two hyphens are an option of the command line, and no dash.
smartquotes = False
highlight_language = "text"

myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries = False

html_theme = "furo"
html_title = "jaxtl"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def setup(app):
  return extension.setup(app)
