"""Deprecated module names, most of version 0.1: importing one warns and returns the new module."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "xpnet.activations": "xpnet.layers.activations",
    "xpnet.architecture": "xpnet.network.architecture",
    "xpnet.arguments": "xpnet.utils.arguments",
    "xpnet.blocks": "xpnet.training.microbatch",
    "xpnet.build": "xpnet.runs.factory",
    "xpnet.calibration": "xpnet.figures.calibration",
    "xpnet.callbacks": "xpnet.training.callbacks",
    "xpnet.charts": "xpnet.figures.curves",
    "xpnet.checkpoint": "xpnet.serialization",
    "xpnet.clipping": "xpnet.optimizers.clipping",
    "xpnet.command": "xpnet.cli.console",
    "xpnet.compiled": "xpnet.accel.numba_kernels",
    "xpnet.configuration": "xpnet.utils.introspection",
    "xpnet.data.augmentation": "xpnet.training.augmentation",
    "xpnet.data.batches": "xpnet.training.device_data",
    "xpnet.data.picture_folders": "xpnet.data.image_folders",
    "xpnet.data.pictures": "xpnet.data.images",
    "xpnet.data.weights": "xpnet.training.sample_weights",
    "xpnet.device_errors": "xpnet.backend.device_errors",
    "xpnet.drawing": "xpnet.figures.style",
    "xpnet.exchange": "xpnet.interop",
    "xpnet.exchange.onnx_file": "xpnet.interop.onnx",
    "xpnet.exchange.peers": "xpnet.interop.peers",
    "xpnet.exchange.pytorch": "xpnet.interop.torch",
    "xpnet.exchange.scikit_learn": "xpnet.interop.sklearn",
    "xpnet.exclusive": "xpnet.utils.exclusive",
    "xpnet.flags": "xpnet.cli.options",
    "xpnet.folder": "xpnet._files",
    "xpnet.graph": "xpnet.accel.cuda_graph",
    "xpnet.history": "xpnet.training.history",
    "xpnet.images": "xpnet.data.images",
    "xpnet.initial_model": "xpnet.runs.initial_model",
    "xpnet.inputs": "xpnet.utils.inputs",
    "xpnet.kernels": "xpnet.accel.cuda_kernels",
    "xpnet.layer": "xpnet.layers.base",
    "xpnet.meter": "xpnet.training.running_metrics",
    "xpnet.mistakes": "xpnet.report.confusion",
    "xpnet.notebook": "xpnet.utils.notebook",
    "xpnet.one_core": "xpnet.accel.small_gemm",
    "xpnet.pages": "xpnet.utils.html",
    "xpnet.parts": "xpnet.training.fit_data",
    "xpnet.plots": "xpnet.figures.plots",
    "xpnet.prediction": "xpnet.network.predictor",
    "xpnet.products": "xpnet.accel.cublas",
    "xpnet.replay": "xpnet.accel.recording",
    "xpnet.results": "xpnet.runs.run_reader",
    "xpnet.resume": "xpnet.training.checkpoints",
    "xpnet.run_page": "xpnet.report.html",
    "xpnet.settings": "xpnet.training.options",
    "xpnet.store": "xpnet.network.store",
    "xpnet.summary": "xpnet.network.summary",
    "xpnet.toml_file": "xpnet.utils.toml",
    "xpnet.twins": "xpnet.accel.dispatch",
}
"""The new name of each module, by the former one."""

RENAMED = {
    "xpnet.callbacks": {"Run": "TrainingState"},
    "xpnet.data.picture_folders": {"read_picture_folder": "read_image_folder"},
    "xpnet.data.pictures": {"read_picture": "read_unchanged"},
    "xpnet.meter": {"Meter": "RunningMetrics", "Run": "TrainingState"},
    "xpnet.notebook": {"picture": "figure"},
    "xpnet.results": {"PastRun": "RunRecord"},
    "xpnet.replay": {"Listener": "Recorder"},
    "xpnet.resume": {"Keeper": "CheckpointManager", "describe_training": "training_fingerprint"},
}
"""The new names in a module, by the former name of both."""


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of `MOVED`; Python asks it last, for what is nowhere else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MOVED:
            return None
        return ModuleSpec(name, self, is_package=name == "xpnet.exchange")

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        # The frames between are those of the import system.
        warnings.warn(
            f"{module.__name__} is deprecated: use {new}", DeprecationWarning, stacklevel=2
        )
        found = import_module(new)
        renamed: dict[str, str] = RENAMED.get(module.__name__, {})
        vars(module)["__getattr__"] = lambda name: getattr(found, renamed.get(name) or name)
        names = getattr(found, "__all__", [n for n in vars(found) if not n.startswith("_")])
        vars(module)["__all__"] = [*names, *renamed]


def former_module(name: str) -> ModuleType:
    """The module that `xpnet.name` was in version 0.1. Raises `AttributeError` for another one."""
    if f"xpnet.{name}" not in MOVED:
        raise AttributeError(f"module 'xpnet' has no attribute {name!r}")
    return import_module(f"xpnet.{name}")


def install() -> None:
    """Install the import hook, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
