"""A laboratory of tabular policies: tasks, training with any recipe, claims, one report.

Everything a policy does is known exactly here, so that a claim can be decided. docs/simulator.md
says how to add a task or a claim.
"""
