"""Experiments on the theory and practice of entropy control: `python -m sim --help`."""
