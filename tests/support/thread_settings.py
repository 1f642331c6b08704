"""The settings of this thread (`xpnet.backend.context`), for `monkeypatch.setattr`."""

from __future__ import annotations

from typing import Any

from xpnet.backend import context


class _Setting:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        return getattr(context.current(), self.name)

    def __set__(self, instance: object, value: Any) -> None:
        context.change(**{self.name: value})


class _Settings:
    kernels_enabled = _Setting()
    recording_enabled = _Setting()
    graphs_enabled = _Setting()
    compiled_enabled = _Setting()
    kernels = _Setting()


SETTINGS = _Settings()
