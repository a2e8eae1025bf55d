"""Every test of this folder runs on each device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.on_device import on_device


@pytest.fixture(autouse=True)
def _on_device(device: torch.device, request: pytest.FixtureRequest) -> Iterator[None]:
    with on_device(device, request):
        yield
