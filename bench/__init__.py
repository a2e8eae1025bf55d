"""Benchmark of token_stats and the selectors against floors and what frameworks do today.

Run as `python -m bench`; `bench.quick()` gives the small preset's results to other programs.
"""

from __future__ import annotations

from bench.grid import quick
from bench.results import Result

__all__ = ["Result", "quick"]
