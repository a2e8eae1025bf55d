"""Token log-probability and entropy in one pass over vocabulary logits, for LLM RL."""

from entropy_ext.backend import backend_info
from entropy_ext.token_stats import TokenStats, token_stats

__all__ = ["TokenStats", "backend_info", "token_stats"]
