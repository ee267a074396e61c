"""Sphinx configuration: MyST pages and notebooks, executed here; neither the build nor a reader fetches anything."""

import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import reference

from expreg import __version__

# Executed pages run `expreg` as a reader would: found on the path, their kernels find it there too.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# The kernel reads no configuration of the person who builds, and does not warn about its local socket.
os.environ["IPYTHONDIR"] = tempfile.mkdtemp(prefix="expreg-docs-")
profile = Path(os.environ["IPYTHONDIR"]) / "profile_default"
profile.mkdir()
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n")

project = "expreg"
author = "the expreg authors"
copyright = "the expreg authors, Apache-2.0"  # the name that Sphinx reads
release = version = __version__

extensions = ["formulas", "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = f"expreg {__version__}"
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["expreg.css"]
pygments_style = "friendly"
pygments_dark_style = "native"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True  # a run never lands in the tree
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ["PYTHONWARNINGS"] = "ignore:os.fork:RuntimeWarning"  # JAX warns of the commands that a page runs

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False

GENERATED = {name: getattr(reference, name) for name in ("columns", "keys", "notation", "outputs")}


def fill(_app, _docname, source):
    """Put the generated parts in the place of their marks."""
    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda mark: GENERATED[mark[1]](), source[0])


def arguments(line):
    """Return the entries of a line that describes several arguments or errors, one a line."""
    return re.split(r"(?<=\.) (?=\w+: )", line)


def plain_docstring(_app, what, _name, _object, _options, lines):
    """Turn our docstrings, plain text with `names` and ||norms||, into reStructuredText that says the same."""
    lines[:] = [f"{line[: len(line) - len(line.lstrip())]}{part}" for line in lines for part in arguments(line.strip())]
    text = re.sub(r"\.md\b", "", "\n".join(lines))
    if what == "property":
        text = text.replace(": ", " – ")  # or napoleon takes what stands before it for a type
    parts = re.split(r"(`[^`]+`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([\\*|])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    lines[:] = "".join(f"`{part}`" if i % 2 else part for i, part in enumerate(parts)).split("\n")


def skip_field(_app, _what, _name, member, _skip, _options):
    """Leave out the fields of a NamedTuple: its docstring describes them."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    """Connect the above."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    app.connect("autodoc-skip-member", skip_field)
