"""Adapters for other trainers; each module needs the trainer it is named after."""
