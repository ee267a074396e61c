"""TeX formulas as MathML, drawn by browsers without script or network; a formula that cannot be parsed is an error.

`make figures` also keeps the labelled formulas of docs/mathematics.md as HTML in the package: a report explains those
to which it refers.
"""

import json
import re
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown_it import MarkdownIt

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


LABELS = re.compile(r"\*\*((?:\([A-H]\.\d+\)[, –]*)+)\*\*")
"""How docs/mathematics.md names the formulas of a paragraph."""


def explained(text: str) -> list[tuple[list[str], str]]:
    """Return labels and HTML of the paragraphs of a page that name formulas, those that end in a table left out."""
    blocks = [block.removeprefix("- ") for block in re.split(r"\n\s*\n|\n(?=- |#)", text)]
    found = [([label for names in LABELS.findall(block) for label in labels(names)], block) for block in blocks]
    return [(names, as_html(block)) for names, block in found if names and block.rstrip().endswith(".")]


def packaged(text: str) -> str:
    """Return what the package keeps of such a page: JSON, one paragraph a line."""
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in explained(text))
    return "[\n" + re.sub(r' xmlns=\\"[^ >]*\\"| display=\\"inline\\"', "", lines) + "\n]\n"


def labels(names: str) -> list[str]:
    """Return the labels of "(A.1), (A.2)" and "(A.1)–(A.3)"."""
    found = re.findall(r"([A-H])\.(\d+)", names)
    if "–" not in names:
        return [f"{letter}.{number}" for letter, number in found]
    (letter, first), (_, last) = found
    return [f"{letter}.{number}" for number in range(int(first), int(last) + 1)]


def as_html(text: str) -> str:
    """Return a paragraph in Markdown as HTML, of links only their words."""
    formulas = iter([mathml(one) for one in re.findall(r"\$([^$]+)\$", text)])
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"\$[^$]+\$", "$", text))
    return re.sub(r"\$", lambda _: next(formulas), MarkdownIt().renderInline(" ".join(words.split())))


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
