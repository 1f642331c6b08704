"""The display of an estimator in a notebook: scikit-learn's, and the layers of the network."""

from __future__ import annotations

from typing import Any


class ShowsNetwork:
    """A mixin before `BaseEstimator`: its HTML is followed by the table of `network_`, if fitted.

    scikit-learn's setting `display="text"` leaves out both.
    """

    def _repr_html_inner(self) -> str:
        html: str = super()._repr_html_inner()  # type: ignore[misc]
        return html + self._network_html()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        output: dict[str, str] = super()._repr_mimebundle_(**options)  # type: ignore[misc]
        if "text/html" in output:
            output["text/html"] += self._network_html()
        return output

    def _network_html(self) -> str:
        network = getattr(self, "network_", None)
        return "" if network is None else f"\n{network._repr_html_()}"
