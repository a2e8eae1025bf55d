"""Tests that name no device, on any: what they make, draw, hold and are given is moved there."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_map

from entropy_ext import Support
from entropy_ext.rl import Rollout

__all__ = ["on_device"]


def moved(value: Any, device: torch.device | str) -> Any:
    """The same with its tensors on the device, through containers, rollouts and supports."""

    def leaf(x: Any) -> Any:
        if isinstance(x, (torch.Tensor, Support)):
            return x.to(device)
        if isinstance(x, Rollout):
            return x.replace(**{f.name: leaf(getattr(x, f.name)) for f in dataclasses.fields(x)})
        return x

    return tree_map(leaf, value)


class _MadeByTests(TorchFunctionMode):
    """What test code makes is on the device, and what it draws from a generator of the CPU as well.

    Not what the code under test makes: it must not rely on a default device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("tests."):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            return moved(func(*moved(args, "cpu"), **kwargs), self.device)
        if func in _device_constructors() and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": self.device}
        return func(*args, **kwargs)


@contextmanager
def on_device(device: torch.device, request: pytest.FixtureRequest) -> Iterator[None]:
    """Tensors are made on the device unless the test says where; the module's constants and the
    test's parameters are moved there."""
    if device.type == "cpu":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in vars(request.module).items():
            if not name.startswith("_"):
                patch.setattr(request.module, name, moved(value, device))
        given = getattr(request.node, "callspec", None)
        for name, value in given.params.items() if given else ():
            patch.setitem(given.params, name, moved(value, device))
        with _MadeByTests(device):
            yield
