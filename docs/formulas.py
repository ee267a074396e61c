"""TeX formulas as MathML, drawn by browsers without script or network; a formula that cannot be parsed is an error."""

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

# latex2mathml passes on what it does not know; a complete element has this many children
CHILDREN = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3, "mroot": 2}
MATHML = "{http://www.w3.org/1998/Math/MathML}"
# what latex2mathml takes for identifiers, which have no space around them
OPERATORS = {"⪯": "⪯", "⪰": "⪰", "±": "±", "~": "∼"}
# signs that are as high as letters and stand close to what is beside them
CLOSE = {"stretchy": "false", "lspace": "0", "rspace": "0"}
SPACING = {**dict.fromkeys("|‖′″⊤/", CLOSE), "max": CLOSE | {"rspace": "0.1em"}, "min": CLOSE | {"rspace": "0.1em"}}

ElementTree.register_namespace("", MATHML[1:-1])


def mathml(formula: str, display: str = "inline") -> str:
    """Return a formula as MathML.

    Raises:
        ValueError: an unknown command, an argument that is missing, or braces that do not match.

    """
    text = " ".join(formula.split())
    text = re.sub(r"\\mathrm\{(\w)\}", r"\\text{\1}", text)  # latex2mathml sets a single letter in italics
    try:
        found = ElementTree.fromstring(convert(text, display=display))
        elements = list(found.iter())
    except Exception as error:
        raise ValueError(f"cannot parse the formula {text}: {error!r}") from error
    unknown = [part for element in elements for part in re.findall(r"\\\w*|[&#^_$]", element.text or "")]
    incomplete = [kind for one in elements if not complete(one, kind := one.tag.rpartition("}")[2])]
    if unknown or incomplete or not balanced(text):
        raise ValueError(f"cannot parse the formula {text}: {[*unknown, *incomplete] or 'braces do not match'}")
    for element in elements:
        if element.tag == MATHML + "mi" and element.text in OPERATORS:
            element.tag, element.text = MATHML + "mo", OPERATORS[element.text]
        element.attrib |= SPACING.get(element.text or "", {})
        if element.tag == MATHML + "msup" and set(element[1].text or " ") <= set("′″"):
            element.tag, element[1].tag = MATHML + "mrow", MATHML + "mo"  # fonts raise a prime themselves
    return ElementTree.tostring(found, encoding="unicode")


def complete(element, kind):
    r"""Return whether an element has its arguments: `\frac{1}` lacks one, and so does the first `^` of `a^^b`."""
    return len(element) == CHILDREN.get(kind, len(element)) and (kind not in ("mi", "mn", "mo") or bool(element.text))


def balanced(text: str) -> bool:
    r"""Return whether the braces that group, unlike those of \{ and \}, match."""
    depth = 0
    for brace in re.findall(r"[{}]", re.sub(r"\\.", "", text)):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def visit(translator, node):
    """Write a formula of a page."""
    from docutils.nodes import SkipNode  # here, because the tests run without Sphinx
    from sphinx.errors import SphinxError

    block = node.tagname == "math_block"
    try:
        found = mathml(node.astext(), "block" if block else "inline")
    except ValueError as error:
        raise SphinxError(f"{translator.builder.current_docname}: {error}") from error
    translator.body.append(f'<div class="formula">{found}</div>' if block else found)
    raise SkipNode


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    return {"parallel_read_safe": True}
