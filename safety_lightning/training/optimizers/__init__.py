"""Optimizers for weights in bfloat16.

stochastic_adamw    AdamW whose weights and moments are rounded at random, so that small updates are not lost
"""

from safety_lightning.training.optimizers.stochastic_adamw import StochasticAdamW

__all__ = ["StochasticAdamW"]
