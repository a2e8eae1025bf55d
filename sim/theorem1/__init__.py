"""First-order change of policy entropy under exact gradient steps, measured against theory.

Theorems 1 and 2 of "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
Models", arXiv 2505.22617: one step on the logits of a tabular softmax policy changes the entropy
by −η Cov_π(ln π, π A) for vanilla and by −η Cov_π(ln π, A) for natural policy gradient, up to
terms of order η².
"""
