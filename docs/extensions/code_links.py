"""Code within sentences links to the API reference, and a link to a module to its source page."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.viewcode import OUTPUT_DIRNAME

_NAME = re.compile(r"(?:xn\.|xpnet\.)?([A-Za-z_][\w.]*)(?:\([^()]{0,40}\))?")


def _link_names(app: Any, doctree: nodes.document, docname: str) -> None:
    """`Sequential`, `xn.fit` and `xpnet.schedules.Cosine` link to where they are documented.

    A class may be named without its module, if there is only one of that name.
    """
    objects = dict(app.env.domains.python_domain.objects)
    classes = [name for name, entry in objects.items() if entry.objtype in ("class", "exception")]
    last = [name.rpartition(".")[2] for name in classes]
    for name, short in zip(classes, last, strict=True):
        if last.count(short) == 1:
            objects.setdefault(f"xpnet.{short}", objects[name])
    for literal in list(doctree.findall(nodes.literal)):
        if literal.parent is None or _is_within(literal, (nodes.reference, nodes.title)):
            continue
        match = _NAME.fullmatch(literal.astext())
        entry = objects.get(f"xpnet.{match[1]}") if match else None
        if entry is None or _is_within_signature_of(literal, entry.node_id):
            continue
        uri = app.builder.get_relative_uri(docname, entry.docname)
        link = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry.node_id}")
        literal.replace_self(link)
        link += literal


def _is_within(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _is_within_signature_of(node: nodes.Node, identifier: str) -> bool:
    """Whether the node is part of the description of this object, which needs no link to itself."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, addnodes.desc) and identifier in node.children[0].get("ids", ()):
            return True
    return False


def _link_modules(app: Any, doctree: nodes.document, docname: str) -> None:
    """A link to a file of `xpnet/` opens the page that shows it, where there is one."""
    shown = getattr(app.env, "_viewcode_modules", {})
    for download in list(doctree.findall(addnodes.download_reference)):
        path = PurePosixPath(download.get("reftarget", ""))
        parts = [part for part in path.with_suffix("").parts if part != ".."]
        name = ".".join(parts[:-1] if parts and parts[-1] == "__init__" else parts)
        if path.suffix != ".py" or not shown.get(name):
            continue
        page = f"{OUTPUT_DIRNAME}/{name.replace('.', '/')}"
        uri = app.builder.get_relative_uri(docname, page)
        link = nodes.reference("", "", *download.children, internal=True, refuri=uri)
        download.replace_self(link)


def _mend_way_back(
    app: Any, page: str, _template: str, context: dict[str, Any], _doctree: Any
) -> None:
    """From a source page to where its objects are documented, each under its own name.

    viewcode supposes that all objects of a module are documented in the same one, and here
    `xpnet.TrainStep` and `xpnet.training.train_step` come from `xpnet.training.step`.
    """
    if not page.startswith(f"{OUTPUT_DIRNAME}/") or "body" not in context:
        return
    module = PurePosixPath(page.removeprefix(f"{OUTPUT_DIRNAME}/"))
    places = [".".join(place.parts) for place in (module, *module.parents[:-1])]
    known = app.env.domains.python_domain.objects
    objects = {name: entry for name, entry in known.items() if entry.objtype != "module"}

    def mended(found: re.Match[str]) -> str:
        parts = found[2].split(".")
        for begin in range(1, len(parts)):
            entries = [objects.get(f"{place}.{parts[begin]}") for place in places]
            for entry in filter(None, entries):
                return found[1] + ".".join([entry.node_id, *parts[begin + 1 :]])
        return found[0]

    context["body"] = re.sub(
        r'(<a class="viewcode-back" href="[^"#]*#)([^"]+)', mended, context["body"]
    )


def setup(app: Any) -> dict[str, bool]:
    """Connect all of this to the resolved pages."""
    app.connect("doctree-resolved", _link_names)
    app.connect("doctree-resolved", _link_modules)
    app.connect("html-page-context", _mend_way_back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
