"""The engine of vLLM, an optional extra: the same token ids in, the same ends of answers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from safety_lightning.checkpoints import locate_model
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines.continuations import PackedRow, RowScores
from safety_lightning.evaluation.engines.protocol import Answer, AnswerLimits, Watcher
from safety_lightning.evaluation.engines.stopping import EndTokens, cut_answer


def check_vllm() -> None:
    """Raises UserError if vLLM is not installed; does not import it, which takes long."""
    if (sys.modules["vllm"] if "vllm" in sys.modules else importlib.util.find_spec("vllm")) is None:
        raise UserError("engine vllm must be installed (pip install vllm), it is not")


class VLLMEngine:
    """Answers with vLLM, which batches by itself; likelihoods are left out.

    Args:
        model: A folder, a hub name or ``lab:NAME``.
        tokenizer: The model's tokenizer.
        dtype: What the weights are computed in.
        options: Further arguments of ``vllm.LLM``.

    Raises:
        UserError: If vLLM is not installed.
    """

    name = "vllm"
    gives_likelihoods = False

    def __init__(
        self,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str = "float32",
        options: dict[str, Any] | None = None,
    ) -> None:
        check_vllm()
        import vllm

        self._vllm: Any = vllm
        self.tokenizer = tokenizer
        self.dtype = dtype
        folder = locate_model(model)
        settings = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
        self.end_tokens = EndTokens(tokenizer, settings)
        self._llm = vllm.LLM(model=str(folder), dtype=dtype, seed=0, **(options or {}))

    def answer(
        self, prompts_ids: Sequence[Sequence[int]], limits: AnswerLimits, *, watcher: Watcher | None = None
    ) -> list[Answer]:
        """Answers prompts; see `Engine.answer`."""
        sampling = self._vllm.SamplingParams(
            temperature=0.0,
            seed=0,
            max_tokens=limits.max_new_tokens,
            stop=list(limits.stop_strings) or None,
            stop_token_ids=sorted(self.end_tokens.find(limits)),
        )
        outputs = self._llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts_ids], sampling, use_tqdm=False)
        answers = [
            cut_answer(
                self.tokenizer,
                list(output.outputs[0].token_ids),
                end_ids=self.end_tokens.find(limits),
                stop_strings=limits.stop_strings,
                batch_size=len(prompts_ids),
            )
            for output in outputs
        ]
        for index, answer in enumerate(answers if watcher else ()):
            assert watcher is not None
            watcher.on_answer(index, answer)
        return answers

    def score_rows(self, rows: Sequence[PackedRow], *, keeps_first: bool = False) -> list[RowScores]:
        """Is never asked for: `gives_likelihoods` is false."""
        raise NotImplementedError("the vllm engine gives no likelihoods")
