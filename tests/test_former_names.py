"""Names, classes and pickles of version 0.1 still work, and warnings name who uses them."""

from __future__ import annotations

import base64
import importlib
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpnet as xn
from xpnet.errors import ShapeError

X, LABELS = np.ones((4, 3), "float32"), np.arange(4) % 2

# `pickle.dumps(Sequential(3, 2, seed=5), 2)` of version 0.1, and its outputs for a row of ones.
PICKLED = (
    "c-n1J$!^p@5S`3qvUCE3u!SWM2n2`4WMdBr+W}$ZgD<p@(5T1m#I1PjdG0naNR|RpwgU$wF8ly|0S68!lIO#q?HK|{"
    "v}CLLRlVw0%X-;;(+s&X_4hi8*GMhqQbjTM2uj9F^mN?;Yw=i;XCmY*CMZw8LnTG8K?h5vQcjdj=5kcK;d=;qzGtCt+"
    "Ce|<(}Y(nNVvp6ioqhmYRo*rLnT2{3{j#XshAQ{30Gn`#l8ZoshEk7)dP<G+jJmDy0US=rbGHJ!rBUFD$zw?#H!F?jY"
    "Wz210J->bTpUD#j3ArA{0unK)mHKM!VYo!X$aZ?I>=rfZ&iW`7j;P+`3@$ALfz&F<<aFk_1OJ?O0N0DaH)ipR<{}#z"
    "POsX+_`MW`Yy6sx42onj9yKn3W)6YJLu<Xm8#M&OMA<)g;AfqbPgE?C8fCH%uDMmRWQ4$jn9(==bB8wem5#Q7BcMxQb"
    "w+6GlR><HcF4w1IQ3rg_|zgon97FiCrIg*abKDbN!LXK`T@Qw}a}!Ei8bSUpzRs%+v?H)SE4;4&@ex)*R|XL}1*9hio"
    "0f1Yg-*KFH<`ct3cXO$FY>f8P#ozmXyW260TvHiu$zAueuJMHysm$ZLmAC|MPX7)bY9czEiJ}qI^*DB^5%quL^3vn}M"
    "J_cO(C;XzA8@^U})4{Dm;RbH|=8k?N@7C{wJ9(D74i**e)pa+QI^Aq=#XP1MmQ&m>7OkoGU${y{As*Pp5-Aq1a#fQ)("
    "?fb_Ckl@oJT`v;@v9C9"
)
OUTPUTS = [[-2.4912736, 1.7619107]]


def fitted(callback: xn.Callback) -> None:
    xn.fit(xn.Sequential(3, 2), (X, LABELS), (X, LABELS), optimizer="sgd", epochs=2,
           callbacks=callback)  # fmt: skip


def test_a_pickle_of_version_0_1() -> None:
    network = pickle.loads(zlib.decompress(base64.b85decode(PICKLED)))
    np.testing.assert_allclose(network(X[:1]), OUTPUTS, rtol=1e-6)


def test_modules_are_attributes_under_their_former_names() -> None:
    sys.modules.pop("xpnet.layer", None)
    vars(xn).pop("layer", None)
    with pytest.warns(DeprecationWarning, match=r"xpnet\.layer is deprecated: use xpnet\.layers"):
        module = xn.layer  # type: ignore[attr-defined]
    assert module.Layer is xn.Layer
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        xn.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_renamed_names_of_a_module() -> None:
    found: dict[str, Any] = {}
    sys.modules.pop("xpnet.callbacks", None)
    with pytest.warns(DeprecationWarning, match=r"xpnet\.callbacks is deprecated"):
        exec("from xpnet.callbacks import *\nfrom xpnet.callbacks import Run", found)
    from xpnet.training.callbacks import TrainingState

    assert found["Run"] is TrainingState
    assert found["EarlyStopping"] is xn.EarlyStopping


@pytest.mark.parametrize(
    ("module", "former", "new"),
    [
        ("pictures", "read_picture", "images.read_unchanged"),
        ("picture_folders", "read_picture_folder", "image_folders.read_image_folder"),
    ],
)
def test_the_readers_of_images(module: str, former: str, new: str) -> None:
    sys.modules.pop(f"xpnet.data.{module}", None)
    where, _, name = new.partition(".")
    with pytest.warns(DeprecationWarning, match=rf"data\.{module} .* use xpnet\.data\.{where}"):
        found = getattr(importlib.import_module(f"xpnet.data.{module}"), former)
    assert found is getattr(importlib.import_module(f"xpnet.data.{where}"), name)


def test_the_reader_of_image_folders_in_its_package() -> None:
    with pytest.warns(DeprecationWarning, match=r"read_picture_folder .* use read_image_folder"):
        from xpnet.data import read_picture_folder  # type: ignore[attr-defined]
    assert read_picture_folder is xn.data.read_image_folder


def test_an_attribute_of_a_class() -> None:
    for thing in (xn.BatchNorm, xn.BatchNorm(3)):
        with pytest.warns(DeprecationWarning, match=r"BatchNorm\.mixes_rows .* batch_dependent"):
            assert thing.mixes_rows is True


def test_classes_for_both_versions_mixed() -> None:
    seen: list[str] = []
    with pytest.warns(DeprecationWarning, match=r"Old\.on_record\(\) is deprecated"):

        class Old(xn.EarlyStopping):
            def on_record(self, run: Any, record: Any) -> None:
                seen.append("old")
                super().on_record(run, record)

    class New(Old):
        def on_log(self, run: Any, record: Any) -> None:
            seen.append("new")
            super().on_log(run, record)

    stop = New(5)
    with pytest.warns(DeprecationWarning, match="on_log"):
        fitted(stop)
    assert seen == ["new", "old"] * 2
    assert stop.best is not None


def test_a_method_of_a_class_that_knows_nothing_of_xpnet() -> None:
    seen: list[Any] = []

    class Sees:
        def on_record(self, run: Any, record: Any) -> None:
            seen.append(record)

    with pytest.warns(DeprecationWarning, match=r"Both\.on_record\(\) is deprecated"):

        class Both(Sees, xn.Callback):
            pass

    fitted(Both())
    assert len(seen) == 2


def test_a_program_sees_the_warnings_that_are_about_it(tmp_path: Path) -> None:
    """Python shows a `DeprecationWarning` only where the code of the program itself causes it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import xpnet as xn\n"
        "class Old(xn.Callback):\n"
        "    def on_record(self, run, record): pass\n"
        "network = xn.Sequential(3, xn.Dropout(0.5), 2)\n"
        "network.seek(0)\n"
        "network.layers[1].seek(0)\n"
        "network.layers[1].seed(0, 1)\n"
        "network.layers[0].hyperparameters()\n"
        "network.values\n"
        "xn.AdamW(0.1, weight_decay=0).step(network.flat_parameters, network.flat_gradients,"
        " decays=3)\n"
        "from xpnet.layer import Layer\n"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    lines = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    numbers = [line.split("program.py:")[1].partition(":")[0] for line in lines]
    assert numbers == ["2", "5", "6", "7", "8", "9", "10", "11"]


def test_the_number_of_output_features_by_its_former_name() -> None:
    class Half(xn.Layer):
        def forward(self, x: Any, *, training: bool) -> Any:
            return x[:, ::2]

        def backward(self, dy: Any) -> Any:
            return np.repeat(dy, 2, axis=1)

    with pytest.warns(DeprecationWarning, match=r"Old\.output_features\(\) .* output_shape\(\)"):

        class Old(Half):
            def output_features(self, features: int | None) -> int | None:
                known = super().output_features(features)
                return None if known is None else known // 2

    with pytest.warns(DeprecationWarning, match=r"output_features\(\) .* output_shape\(\)"):
        network = xn.Sequential([xn.Linear(3, 8), Old()])
    assert network.out_features == 4
    with pytest.warns(DeprecationWarning, match=r"output_features\(\) .* output_shape\(\)"):
        assert Old().output_shape(None) is None
    mixin = type("Halves", (), {"output_features": lambda self, features: 4})
    with pytest.warns(DeprecationWarning, match=r"Mixed\.output_features\(\) .* output_shape\(\)"):
        mixed = type("Mixed", (mixin, Half), {})
    assert mixed().output_shape((8,)) == (4,)
    with pytest.warns(DeprecationWarning, match=r"Linear\.output_features\(\)"):
        assert xn.Linear(3, 8).output_features(3) == 8
    with pytest.raises(ShapeError, match=r"takes rows of features and is given images"):
        xn.Sequential((4, 4), Old())
