"""What selection by covariance and the STEER forms know of the entropy change of each token.

One policy-gradient step for one sampled token moves the logits of its state, and with them the
entropy, by an amount that a tabular policy gives exactly. The token covariance (arXiv 2505.22617),
the forms of STEER (arXiv 2510.10150) and the exact first-order form are compared with it.
"""
