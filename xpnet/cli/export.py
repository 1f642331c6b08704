"""`python -m xpnet.export MODEL --html FILE`: a network as a web page or an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xpnet._files import write_atomically
from xpnet.cli import console
from xpnet.cli.parser import Parser
from xpnet.errors import CheckpointError, ConfigError
from xpnet.interop.onnx import export_onnx
from xpnet.runs.model import Model
from xpnet.web_demo.export import html_page


def main(argv: Sequence[str] | None = None) -> int:
    """Write the requested files; 0, or 2 with the reason."""
    return console.run(lambda: _export(argv), "python -m xpnet.export")


def _export(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.html is None and arguments.onnx is None:
        raise ConfigError(
            "nothing to write: give --html FILE or --onnx FILE: see python -m xpnet.export --help"
        )
    model = Model.load(arguments.model)
    if arguments.html is not None:
        try:
            page = html_page(model)
        except (ConfigError, CheckpointError) as error:
            raise type(error)(f"{arguments.model}: {error}") from None
        write_atomically(arguments.html, page.encode())
        _print_size(arguments.html, "open it in a browser")
    if arguments.onnx is not None:
        export_onnx(model.network, arguments.onnx)
        _print_size(arguments.onnx, "from normalised values to logits")
    return 0


def _print_size(path: Path, what: str) -> None:
    console.say(f"{path}  {path.stat().st_size / 1000:,.0f} kB: {what}")


def _parser() -> Parser:
    parser = Parser(
        "python -m xpnet.export",
        description="Write a trained network as a web page to draw on, or as an ONNX file.",
        epilog="The page is one file that needs no server and sends no data. It shows "
        "the probabilities of the classes, the hidden activations and the weights of the most "
        "active units while you draw. The properties of the ONNX file include the normalisation "
        "that its input needs.",
    )
    parser.add_model()
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="the web page to write; the network must take square images",
    )
    parser.add_argument(
        "--onnx", metavar="FILE", type=Path, help="the ONNX file to write (needs the extra onnx)"
    )
    return parser
