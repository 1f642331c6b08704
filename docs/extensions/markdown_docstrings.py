"""What autodoc shows of a class or function of xpnet: docstring, signature and base classes.

Docstrings are Markdown, and autodoc takes reStructuredText: `restructured` converts them. They use
paragraphs, lists, blocks of code, code, bold and italic words; anything else is an error, so that
nothing is shown wrongly.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from sphinx.util.inspect import signature, stringify_signature

import xpnet

_MARKDOWN = MarkdownIt("commonmark")
_PROMPT = re.compile(r"(?:^ *>>> .*\n(?:^(?! *>>> ).*\S.*\n)*)+", re.MULTILINE)


def restructured(text: str) -> list[str]:
    r"""The lines of a docstring in reStructuredText.

    >>> print(*restructured("Some `a_b` and *more*:\n\n    x = 1\n\n- a_b"), sep="\n")
    Some \ :code:`a_b`\  and *more*:
    <BLANKLINE>
    .. code-block:: python
    <BLANKLINE>
       x = 1
    <BLANKLINE>
    - a\_b
    <BLANKLINE>
    <BLANKLINE>
    >>> restructured("- a `b`\nc\n- d\n  `e`\n  f")
    ['- a \\ :code:`b`\\ ', '  c', '', '- d', '  \\ :code:`e`\\ ', '  f', '', '']
    >>> restructured("# Title")
    Traceback (most recent call last):
    ...
    ValueError: docstrings with heading are not supported: <heading>
      <inline>
        <text>
    """
    fenced = _PROMPT.sub(lambda found: f"```\n{found[0]}```\n", f"{text}\n")
    return list(_blocks(SyntaxTreeNode(_MARKDOWN.parse(fenced)).children))


def _blocks(nodes: list[SyntaxTreeNode]) -> Iterator[str]:
    for node in nodes:
        if node.type == "paragraph":
            yield from _inline(node.children[0].children).splitlines()
        elif node.type in ("code_block", "fence"):
            formula = re.search(r"[−Σθ]", node.content)
            yield f".. code-block:: {'text' if formula else 'python'}"
            yield ""
            yield from (f"   {line}" for line in node.content.rstrip().splitlines())
        elif node.type in ("bullet_list", "ordered_list"):
            mark = "- " if node.type == "bullet_list" else "#. "
            for item in node.children:
                first, *others = _blocks(item.children)
                yield mark + first
                # A blank at the end of a line belongs to the code before it.
                yield from (f"{' ' * len(mark)}{line}" if line else "" for line in others)
        else:
            raise ValueError(f"docstrings with {node.type} are not supported: {node.pretty()}")
        yield ""


def _inline(nodes: list[SyntaxTreeNode]) -> str:
    return "".join(map(_span, nodes))


def _span(node: SyntaxTreeNode) -> str:
    if node.type == "text":
        return re.sub(r"([\\*`|_])", r"\\\1", node.content)
    if node.type == "softbreak":
        return "\n"
    if node.type == "code_inline":
        # A blank and a backslash around it: inline markup may stand beside letters.
        return rf"\ :code:`{node.content.replace(chr(92), chr(92) * 2)}`\ "
    if node.type in ("strong", "em"):
        mark = "**" if node.type == "strong" else "*"
        return f"{mark}{_inline(node.children)}{mark}"
    raise ValueError(f"docstrings with {node.type} are not supported")


def _process(_app: Any, _what: str, name: str, _item: Any, _options: Any, lines: list[str]) -> None:
    try:
        lines[:] = restructured("\n".join(lines))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _signature(
    _app: Any,
    what: str,
    _name: str,
    item: Any,
    _options: Any,
    text: str | None,
    returns: str | None,
) -> tuple[str | None, Any]:
    """Of a layer, the parameters of `__init__`, not those of `Layer.__new__`."""
    if what != "class" or "__new__" not in dir(item) or not (text or "").startswith("(*args"):
        return text, returns
    if item.__init__ is object.__init__:
        return "()", returns
    found = signature(item.__init__, bound_method=True)
    found = found.replace(return_annotation=inspect.Signature.empty)
    return stringify_signature(found, unqualified_typehints=True, short_literals=True), returns


def _bases(_app: Any, _name: str, _item: Any, _options: Any, bases: list[Any]) -> None:
    """Only public base classes: instead of another one, the nearest that it inherits from."""
    public = {
        getattr(xpnet, name) for name in xpnet.__all__ if isinstance(getattr(xpnet, name), type)
    }
    for place, base in enumerate(bases):
        if isinstance(base, type) and base.__module__.startswith("xpnet."):
            above = (kind for kind in base.__mro__ if kind in public or kind is object)
            bases[place] = next(above)


def setup(app: Any) -> dict[str, bool]:
    """Connect all of this to autodoc."""
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-bases", _bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
