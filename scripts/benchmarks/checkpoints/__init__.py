"""Whole checkpoints: the sweep, with and without its start, and variants in a live model."""
