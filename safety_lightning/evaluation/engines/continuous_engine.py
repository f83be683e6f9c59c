"""The engine of transformers' continuous batching: live weights on a GPU, without a second process or a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import ContinuousBatchingConfig

from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines.protocol import Answer, AnswerLimits, Watcher
from safety_lightning.evaluation.engines.transformers_engine import TransformersEngine

_PAGE_TOKENS = 32
_BATCH_TOKENS = 256
_OUT_OF_MEMORY = "out of memory"  # as CUDA says it


class ContinuousEngine(TransformersEngine):
    """Answers with a causal language model in memory, whose finished answers make room for the next prompt at once.

    The paged cache is made for each call and dropped with it, so that no keys of other weights are met after the
    weights have changed. On a CPU it is many times slower than `TransformersEngine`, and gives the same answers.
    Log-likelihoods of solutions are measured as there.
    """

    name = "continuous"

    def _generate_batch(
        self, prompts: Sequence[tuple[int, Sequence[int]]], limits: AnswerLimits, watcher: Watcher | None
    ) -> list[tuple[list[int], Answer]]:
        with torch.inference_mode(False), torch.no_grad():  # its thread may not write to tensors of inference mode
            outputs = self.model.generate_batch(  # type: ignore[operator]  # a mixin that torch.nn.Module hides
                inputs=[list(ids) for _, ids in prompts],
                generation_config=self._write_config(limits.max_new_tokens, limits),
                continuous_batching_config=self._size_cache([len(ids) for _, ids in prompts], limits),
                persistent_manager=False,
            )
        faults = [output.error for output in outputs.values() if output.error is not None]
        if any(_OUT_OF_MEMORY in fault for fault in faults):  # its thread keeps the text alone of what was raised
            raise torch.OutOfMemoryError(faults[0])
        if faults or len(outputs) != len(prompts):
            raise UserError(
                f"engine continuous must answer all of {len(prompts)} prompts, got {len(outputs) - len(faults)}: "
                f"{faults[0] if faults else 'its thread ended early'}; --model.engine transformers does without it"
            )
        found = [
            (list(output.generated_tokens), self._cut(output.generated_tokens, limits, len(prompts)))
            for output in outputs.values()
        ]
        if watcher is not None:
            for (index, _), (_, answer) in zip(prompts, found, strict=True):
                watcher.on_answer(index, answer)
        return found

    def _size_cache(self, lengths: Sequence[int], limits: AnswerLimits) -> ContinuousBatchingConfig:
        """Leaves sizes to transformers on a GPU; on a CPU it would take most of the memory, and minutes to fill it."""
        if self.model.device.type == "cuda":
            return ContinuousBatchingConfig(allow_block_sharing=False)
        pages = sum(-(-(length + limits.max_new_tokens) // _PAGE_TOKENS) + 1 for length in lengths)
        return ContinuousBatchingConfig(
            allow_block_sharing=False,
            page_size=_PAGE_TOKENS,
            num_blocks=pages,
            max_batch_tokens=max(_BATCH_TOKENS, *lengths),
        )
