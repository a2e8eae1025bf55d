"""Registers every recipe when verl imports it: VERL_USE_EXTERNAL_MODULES names this module."""

from __future__ import annotations

from entropy_ext.integrations.verl.register import register

register()
