"""What a judge's tokenizer makes of prompt and answer: a conversation in its chat template, an answer cut to length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import JudgeRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PROBE = JudgeRequest(prompt="words-of-a-prompt-4711", answer="words-of-an-answer-4712")


def takes_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Says whether a chat template writes nothing but a content that is a list of parts, as Llama Guard 3 Vision's.

    A list ``[{"type": "text", "text": ...}]`` is what templates of models take that read images too. Most take plain
    texts, or both; then a text is what they are given.
    """
    if _writes(tokenizer, has_parts=False):
        return False
    return _writes(tokenizer, has_parts=True)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, request: JudgeRequest, *, has_parts: bool, judge: str
) -> list[int]:
    """Writes prompt and answer as a conversation in the chat template of the judge's own model.

    Args:
        tokenizer: The judge's tokenizer.
        request: Prompt and answer.
        has_parts: Whether the template takes lists of parts; see `takes_parts`.
        judge: What errors call the judge.

    Raises:
        UserError: If the tokenizer has no chat template, or it refuses the conversation or does not write it.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{judge} must be a model whose tokenizer has a chat template, {tokenizer.name_or_path} has none"
        )
    text = _render(tokenizer, request, has_parts=has_parts)
    if request.prompt.strip() not in text or request.answer.strip() not in text:
        raise UserError(f"the chat template of {tokenizer.name_or_path} must write prompt and answer, it does not")
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _render(tokenizer: PreTrainedTokenizerBase, request: JudgeRequest, *, has_parts: bool) -> str:
    from safety_lightning.data.templates import render_messages

    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": text}] if has_parts else text}
        for role, text in (("user", request.prompt), ("assistant", request.answer))
    ]
    template = str(tokenizer.get_chat_template())
    return render_messages(tokenizer, messages, template=template, add_generation_prompt=False)


def _writes(tokenizer: PreTrainedTokenizerBase, *, has_parts: bool) -> bool:
    """Whether the texts of a conversation stand in what the template makes of it, not the lists around them."""
    try:
        text = _render(tokenizer, _PROBE, has_parts=has_parts)
    except UserError:
        return False
    return _PROBE.prompt in text and _PROBE.answer in text and f"'{_PROBE.prompt}'" not in text


def clip_answer(tokenizer: PreTrainedTokenizerBase, answer: str, num_tokens: int) -> str:
    """Returns the first tokens of an answer, as text; one that is short enough stays as it is.

    Args:
        tokenizer: The judge's tokenizer.
        answer: The answer.
        num_tokens: Longest answer, at least 1.
    """
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return answer if len(ids) <= num_tokens else str(tokenizer.decode(ids[:num_tokens]))
