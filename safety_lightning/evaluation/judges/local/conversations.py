"""What a judge's tokenizer makes of prompt and answer: a conversation in its chat template, an answer cut to length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import JudgeRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_conversation(tokenizer: PreTrainedTokenizerBase, request: JudgeRequest, *, judge: str) -> list[int]:
    """Writes prompt and answer as a conversation in the chat template of the judge's own model.

    Raises:
        UserError: If the tokenizer has no chat template, or it refuses the conversation or does not write it.
    """
    from safety_lightning.data.templates import render_messages

    if not tokenizer.chat_template:
        raise UserError(
            f"{judge} must be a model whose tokenizer has a chat template, {tokenizer.name_or_path} has none"
        )
    messages = [{"role": "user", "content": request.prompt}, {"role": "assistant", "content": request.answer}]
    template = str(tokenizer.get_chat_template())
    text = render_messages(tokenizer, messages, template=template, add_generation_prompt=False)
    if request.prompt.strip() not in text or request.answer.strip() not in text:
        raise UserError(f"the chat template of {tokenizer.name_or_path} must write prompt and answer, it does not")
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def clip_answer(tokenizer: PreTrainedTokenizerBase, answer: str, num_tokens: int) -> str:
    """Returns the first tokens of an answer, as text; one that is short enough stays as it is.

    Args:
        tokenizer: The judge's tokenizer.
        answer: The answer.
        num_tokens: Longest answer, at least 1.
    """
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return answer if len(ids) <= num_tokens else str(tokenizer.decode(ids[:num_tokens]))
