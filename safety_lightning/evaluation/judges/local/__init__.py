"""Judges that are language models on this machine.

levels   a causal language model by the probabilities of five levels
"""

from safety_lightning.evaluation.judges.local.levels import LocalJudge

__all__ = ["LocalJudge"]
