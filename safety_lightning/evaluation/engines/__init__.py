"""Engines let a model answer prompts: token ids in, greedy answers out.

protocol                           what every engine speaks: Engine, Answer, AnswerLimits
transformers_engine, vllm_engine   a causal LM in memory; vLLM, an optional extra
continuous_engine                  the former with its paged cache, for GPUs
choice                             which of the two answers where a model lies
stopping                           where an answer ends: the model's own end tokens, and stop strings
continuations                      likelihoods of what may stand behind a prompt, all in one forward pass
"""

from safety_lightning.evaluation.engines.choice import LiveEngineName, choose_engine, make_engine
from safety_lightning.evaluation.engines.continuations import Continuation, PackedRow, RowScores, pack_row
from safety_lightning.evaluation.engines.continuous_engine import ContinuousEngine
from safety_lightning.evaluation.engines.protocol import Answer, AnswerLimits, Engine, Finish, Watcher
from safety_lightning.evaluation.engines.transformers_engine import TransformersEngine
from safety_lightning.evaluation.engines.vllm_engine import VLLMEngine, check_vllm

__all__ = [
    "Answer",
    "AnswerLimits",
    "Continuation",
    "ContinuousEngine",
    "Engine",
    "Finish",
    "LiveEngineName",
    "PackedRow",
    "RowScores",
    "TransformersEngine",
    "VLLMEngine",
    "Watcher",
    "check_vllm",
    "choose_engine",
    "make_engine",
    "pack_row",
]
