"""A judge that is a causal language model here: it is written a prompt, and what it says is read.

Shapes in this file: B = answers in a batch, T = tokens, V = vocabulary.
"""

from __future__ import annotations

import inspect
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.local.memory import check_memory
from safety_lightning.evaluation.judges.protocol import Judge, Judgement, JudgeRequest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from safety_lightning.checkpoints import CheckpointReader

DType = Literal["float32", "bfloat16", "float16"]


class ModelJudge(Judge):
    """What judges that are models share: loading, batches of similar length, and what a prompt is too long for.

    A judge says how a request becomes token ids (`encode`), and reads the model by the probabilities of the next token
    (`NextTokenJudge`) or by its reply (`ReplyJudge`). A prompt longer than the model's context stays unjudged
    (``failed``).

    Args:
        model: A folder, a hub name (``org/name@rev``) or ``lab:NAME``.
        batch_size: Answers at a time, at least 1; it changes no score.
        dtype: Dtype of the weights in memory.
        device: Where to compute; None takes a GPU where there is one.

    Raises:
        UserError: If an argument is out of its range.
    """

    def __init__(self, model: str, *, batch_size: int, dtype: DType, device: str | None) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.batch_size = batch_size
        self.dtype: DType = dtype
        self.device = device

    @property
    def settings(self) -> Mapping[str, Any]:
        """Hashes of the weights, and the dtype; subclasses add what else determines a score."""
        return {"weights": self._hashes, "dtype": self.dtype}

    @abstractmethod
    def encode(self, request: JudgeRequest) -> list[int]:
        """Returns the token ids that the model reads."""

    @abstractmethod
    def judge_batch(self, sequences: Sequence[Sequence[int]]) -> list[Judgement]:
        """Has the model read a batch of prompts, and judges what it says."""

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """Judges answers in batches of similar length, the longest first; see `Judge.judge`."""
        encoded = [self.encode(request.replace_surrogates()) for request in requests]
        limit = getattr(self.loaded.config, "max_position_embeddings", None) or sys.maxsize
        for index, ids in enumerate(encoded):
            if len(ids) > limit:
                reason = f"prompt and answer are {len(ids)} tokens, the judge's context takes {limit}"
                yield index, self.leave_unjudged("failed", reason)
        fitting = [index for index, ids in enumerate(encoded) if len(ids) <= limit]
        order = sorted(fitting, key=lambda index: -len(encoded[index]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield from zip(chosen, self.judge_batch([encoded[index] for index in chosen]), strict=True)

    def check(self) -> None:
        """Checks model, tokenizer, prompt and memory by what the files say; the weights are loaded when they are used.

        Raises:
            UserError: If there is no such model, its tokenizer is of another vocabulary or refuses the template, or it
                needs more memory than there is.
        """
        reader = self._reader
        self.encode(JudgeRequest(prompt="Is it raining?", answer="It is."))
        if "loaded" not in vars(self):
            check_memory(self.num_bytes, self.chosen_device, what=f"the judge {self.name} ({self.model})")
        reader.close()

    @property
    def num_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        import torch

        size = torch.finfo(getattr(torch, self.dtype)).bits // 8
        return size * sum(info.num_numbers for info in self._reader.infos.values())

    def leave_unjudged(self, unjudged: Literal["failed", "unparsable"], reason: str) -> Judgement:
        """Makes a judgement without a score."""
        return Judgement(score=None, unjudged=unjudged, reason=reason, scale=self.scale)

    def give(self, score: float, reason: str) -> Judgement:
        """Makes a judgement with a score on this judge's scale."""
        return Judgement(score=score, unjudged=None, reason=reason, scale=self.scale)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        from safety_lightning.checkpoints import load_tokenizer

        return load_tokenizer(self.model)

    @cached_property
    def loaded(self) -> PreTrainedModel:
        """The model in memory."""
        import torch

        from safety_lightning.checkpoints import load_model

        model = load_model(self.model, dtype=getattr(torch, self.dtype))
        model.to(self.chosen_device)  # type: ignore[arg-type]  # a decorator of transformers hides the signature
        return model

    @cached_property
    def chosen_device(self) -> torch.device:
        """Where the model computes."""
        from safety_lightning.system.devices import choose_device

        return choose_device(self.device)

    @cached_property
    def _reader(self) -> CheckpointReader:
        from safety_lightning.checkpoints import check_model

        return check_model(self.model)

    @cached_property
    def _hashes(self) -> Mapping[str, str]:
        return self._reader.hash_files()


class NextTokenJudge(ModelJudge):
    """Judges by the probabilities of the token that comes next."""

    @abstractmethod
    def read_probabilities(self, probabilities_V: torch.Tensor) -> Judgement:
        """Judges the probabilities of every next token, float64, shape ``(V,)``."""

    def judge_batch(self, sequences: Sequence[Sequence[int]]) -> list[Judgement]:
        """Computes the probabilities behind each prompt, as they are without the others."""
        import torch

        from safety_lightning.data import pad_sequences

        pad_token_id = int(self.tokenizer.pad_token_id)
        input_ids_BT, mask_BT = pad_sequences(sequences, pad_token_id=pad_token_id, padding="left")
        inputs = {"input_ids": input_ids_BT, "attention_mask": mask_BT}
        known = inspect.signature(self.loaded.forward).parameters
        if "position_ids" in known:
            inputs["position_ids"] = (mask_BT.cumsum(1) - 1).clamp(min=0)  # padding on the left moves no token
        inputs = {name: tensor.to(self.loaded.device) for name, tensor in inputs.items()}
        options = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        with torch.inference_mode():
            logits_BV = self.loaded(**inputs, **options, use_cache=False).logits[:, -1]
        probabilities_BV = logits_BV.double().softmax(1).cpu()
        return [self.read_probabilities(probabilities_V) for probabilities_V in probabilities_BV]


class ReplyJudge(ModelJudge):
    """Judges by a short reply, generated greedily."""

    num_reply_tokens = 128

    @abstractmethod
    def read_reply(self, reply: str) -> Judgement:
        """Judges a reply, which has no special tokens and no white space around it."""

    def judge_batch(self, sequences: Sequence[Sequence[int]]) -> list[Judgement]:
        """Generates the replies, each as it is without the others."""
        from safety_lightning.evaluation.engines import AnswerLimits, TransformersEngine

        engine = TransformersEngine(self.loaded, self.tokenizer, batch_size=self.batch_size)
        replies = engine.answer(sequences, AnswerLimits(max_new_tokens=self.num_reply_tokens))
        return [self.read_reply(reply.text) for reply in replies]
