"""Writes texts behind prompts as tokens, as the model would read them there."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from safety_lightning.data import encode_texts, render_prompt, render_reply
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import Continuation

logger = logging.getLogger(__name__)
_PROBE = ("Is it raining", "It is")


def encode_openings(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    prompts_ids: Sequence[list[int]],
    *,
    prompt_format: str,
) -> list[list[int]]:
    r"""Encodes prompts with what a chat template writes before every answer (``<think>\n\n</think>`` of some).

    Texts are scored behind it, and the first token of an answer is the one behind it: the model did not choose it.

    Args:
        tokenizer: The model's tokenizer.
        prompts: The prompts, as they are put into the format.
        prompts_ids: Their tokens.
        prompt_format: ``chat``, ``plain`` or ``raw``.

    Returns:
        The tokens; those of the prompts where nothing is written.
    """
    opening = _find_opening(tokenizer) if prompt_format == "chat" else ""
    if not opening:
        return [list(ids) for ids in prompts_ids]
    return encode_texts(tokenizer, [render_prompt(tokenizer, prompt) + opening for prompt in prompts], "chat")


def _find_opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns what the chat template writes between a prompt and any answer."""
    question, answer = _PROBE
    head = render_prompt(tokenizer, question)
    return render_reply(tokenizer, question, answer, head, "chat").partition(answer)[0]


def encode_continuations(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    prompts_ids: Sequence[Sequence[int]],
    texts: Sequence[Sequence[str]],
    *,
    prompt_format: str,
) -> list[list[Continuation]]:
    """Encodes texts behind prompts, prompt and text together.

    Where tokens merge across the border, a text is scored by the whole: from the first token on in which the prompt
    with the text differs from the prompt alone. How often that is, is logged.

    Args:
        tokenizer: The model's tokenizer.
        prompts: The prompts, as they are put into the format.
        prompts_ids: Their tokens, with what is written before every answer; see `encode_openings`.
        texts: What may stand behind each prompt.
        prompt_format: ``chat``, ``plain`` or ``raw``.

    Returns:
        The continuations of each prompt, in the order of its texts.

    Raises:
        UserError: If the chat template does not write a text behind the prompt, or a text has no token there.
    """
    wholes = _write_wholes(tokenizer, prompts, texts, prompt_format=prompt_format)
    if prompt_format == "raw":
        encoded = iter(tokenizer(wholes)["input_ids"] if wholes else [])
    else:
        encoded = iter(encode_texts(tokenizer, wholes, prompt_format))  # type: ignore[arg-type]
    found = [[_split(ids, next(encoded), text) for text in own] for ids, own in zip(prompts_ids, texts, strict=True)]
    pairs = [(ids, one) for ids, own in zip(prompts_ids, found, strict=True) for one in own]
    num_merged = sum(one.num_shared < len(ids) for ids, one in pairs)
    if num_merged:
        logger.warning(
            "%d of %d continuations merge tokens with their prompt, and are scored from the first token that differs",
            num_merged,
            len(pairs),
        )
    return found


def _write_wholes(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[Sequence[str]], *, prompt_format: str
) -> list[str]:
    """Writes each prompt with each of its texts."""
    if prompt_format == "raw":  # behind "Answer:", words are set apart
        return [f"{prompt} {text}" for prompt, own in zip(prompts, texts, strict=True) for text in own]
    wholes = []
    opening = _find_opening(tokenizer) if prompt_format == "chat" and any(texts) else ""
    tails: dict[str, str] = {}  # what a template makes of an answer is the same behind every prompt
    for prompt, own in zip(prompts, texts, strict=True):
        head = render_prompt(tokenizer, prompt, template=prompt_format) if own else ""  # type: ignore[arg-type]
        for text in own:
            if text not in tails:
                tails[text] = text if prompt_format == "plain" else _write_tail(tokenizer, prompt, text, head, opening)
            wholes.append(head + tails[text])
    return wholes


def _write_tail(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, head: str, opening: str) -> str:
    """Writes what a chat template makes of a text that the model is to say, up to the text's end."""
    reply = render_reply(tokenizer, prompt, text, head, "chat")
    at = reply.find(text.strip(), len(opening))
    if at < 0 or not text.strip() or not reply.startswith(opening):
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} must write what the model says, of {text[:60]!r} it writes "
            f"{reply[:80]!r}; give another text, or `prompt_format: plain`"
        )
    return reply[: at + len(text.strip())]


def _split(prompt_ids: Sequence[int], whole_ids: Sequence[int], text: str) -> Continuation:
    pairs = enumerate(zip(prompt_ids, whole_ids, strict=False))
    shared = next((at for at, (a, b) in pairs if a != b), min(len(prompt_ids), len(whole_ids)))
    if shared == 0 or len(whole_ids) == shared:
        raise UserError(f"a text behind a prompt must have tokens of its own there, {text[:60]!r} has none")
    return Continuation(ids=tuple(int(token) for token in whole_ids[shared:]), num_shared=shared)
