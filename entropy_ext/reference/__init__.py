"""Everything the kernels compute, in plain PyTorch and in any float dtype.

The oracle of the tests (on float64 input), the baseline of the benchmarks, and a readable
statement of the numeric contract in docs/numerics.md. Never chosen silently in place of a kernel.
"""

from entropy_ext.reference.token_stats import token_stats

__all__ = ["token_stats"]
