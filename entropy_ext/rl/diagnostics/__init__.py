"""Diagnostics: entropy during training, its relation to performance, and pass@k."""

from entropy_ext.rl.diagnostics.fit import EntropyFit, fit_entropy_performance
from entropy_ext.rl.diagnostics.monitor import EntropyMonitor
from entropy_ext.rl.diagnostics.pass_at_k import pass_at_k

__all__ = ["EntropyFit", "EntropyMonitor", "fit_entropy_performance", "pass_at_k"]
