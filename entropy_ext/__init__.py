from entropy_ext.reference import token_stats
from entropy_ext.stats import TokenStats

__all__ = ["TokenStats", "token_stats"]
