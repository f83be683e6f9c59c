"""Judges that are language models on this machine.

model_judge    what they share: loading, batches, the context; by the next token's probabilities, or by a reply
conversations  prompt and answer in their model's chat template; an answer cut to length
memory         whether they fit
levels         any model, by the probabilities of five levels
strongreject, harmbench, wildguard, guards   judges of the field, each with its parser, truncation and scale
"""

from safety_lightning.evaluation.judges.local.guards import LlamaGuardJudge, Qwen3GuardJudge
from safety_lightning.evaluation.judges.local.harmbench import HarmBenchJudge
from safety_lightning.evaluation.judges.local.levels import LocalJudge
from safety_lightning.evaluation.judges.local.memory import make_room
from safety_lightning.evaluation.judges.local.model_judge import ModelJudge
from safety_lightning.evaluation.judges.local.strongreject import StrongREJECTJudge
from safety_lightning.evaluation.judges.local.wildguard import WildGuardJudge

__all__ = [
    "HarmBenchJudge",
    "LlamaGuardJudge",
    "LocalJudge",
    "ModelJudge",
    "Qwen3GuardJudge",
    "StrongREJECTJudge",
    "WildGuardJudge",
    "make_room",
]
