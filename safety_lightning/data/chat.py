"""Writes a prompt and its response as tokens, and says which of them are trained.

The training mask comes from lengths: the prompt's tokens are counted, and nothing is found by comparing ids (the
padding token may be the end token).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

from transformers import PreTrainedTokenizerBase

from safety_lightning.checkpoints import blame
from safety_lightning.data.templates import render_messages
from safety_lightning.errors import UserError

Template = Literal["chat", "plain"]

IGNORED_LABEL = -100  # what torch's cross entropy skips
PLAIN_PROMPT = "### Instruction:\n{prompt}\n\n### Response:\n"  # Paper: the release's template is undefined
TEMPLATE_DATE = datetime(2024, 7, 26)  # Llama 3's own default; today's date would change the data every day
_PROBE = ("Is it raining", "It is")
_CHECKED = "_safety_lightning_checked_template"
_ASKS_DATE = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


@dataclass(frozen=True)
class EncodedExample:
    """One prompt and its response as token ids.

    Attributes:
        input_ids: Prompt, response and stop token.
        num_prompt_tokens: How many ids at the start are the prompt's, and so not trained.
        num_masked_tail: How many ids at the end are not trained (the stop token, where ``train_eos`` is false).
        is_split: Whether prompt and response were tokenized apart, because tokens merged across their border.
        is_truncated: Whether the end was cut off.
    """

    input_ids: list[int]
    num_prompt_tokens: int
    num_masked_tail: int = 0
    is_split: bool = False
    is_truncated: bool = False

    @property
    def num_trained_tokens(self) -> int:
        """How many ids carry a label."""
        return max(0, len(self.input_ids) - self.num_prompt_tokens - self.num_masked_tail)

    @property
    def labels(self) -> list[int]:
        """The ids, with those that are not trained replaced by -100."""
        start = min(self.num_prompt_tokens, len(self.input_ids))
        end = start + self.num_trained_tokens
        num_after = len(self.input_ids) - end
        return [IGNORED_LABEL] * start + self.input_ids[start:end] + [IGNORED_LABEL] * num_after


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, template: Template = "chat") -> list[int]:
    """Encodes a prompt up to the point where the model has to answer.

    Args:
        tokenizer: The model's tokenizer.
        prompt: What the user says.
        template: ``chat`` is the model's own chat template, ``plain`` is :data:`PLAIN_PROMPT`.

    Returns:
        The token ids, with the generation prompt and without padding.

    Raises:
        UserError: If the template is unknown, or ``chat`` is asked for and the tokenizer has no chat template.
    """
    return encode_texts(tokenizer, [render_prompt(tokenizer, prompt, template=template)], template)[0]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    template: Template = "chat",
    train_eos: bool = True,
) -> list[EncodedExample]:
    """Encodes prompts and their responses, each ending in a stop token.

    The prompt's ids are always the first ids of the whole. Where tokens would merge across the border, prompt and
    response are tokenized apart, as they are when the model answers. What a chat template writes after the stop token
    is left out; where it writes no stop token, the tokenizer's end token is added.

    Args:
        tokenizer: The model's tokenizer.
        pairs: Prompts and responses.
        template: ``chat`` is the model's own chat template, ``plain`` is :data:`PLAIN_PROMPT`.
        train_eos: Whether the stop token is trained. Paper: it is masked, being the padding token too.

    Returns:
        One encoded example per pair, not truncated.

    Raises:
        UserError: If there is no chat template, or it does not write the prompt as the beginning of the conversation,
            or the tokenizer has no end token and the template writes none.
    """
    prompts = [render_prompt(tokenizer, prompt, template=template) for prompt, _ in pairs]
    replies = [
        render_reply(tokenizer, prompt, response, rendered, template)
        for (prompt, response), rendered in zip(pairs, prompts, strict=True)
    ]
    wholes = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
    prompts_ids = encode_texts(tokenizer, prompts, template)
    wholes_ids = encode_texts(tokenizer, wholes, template)
    stop_ids = find_stop_ids(tokenizer) if template == "chat" else frozenset()
    examples = []
    for prompt_ids, whole_ids, reply in zip(prompts_ids, wholes_ids, replies, strict=True):
        is_split = whole_ids[: len(prompt_ids)] != prompt_ids
        if is_split:
            whole_ids = prompt_ids + tokenizer(reply, add_special_tokens=False)["input_ids"]
        input_ids = prompt_ids + _end_with_stop(tokenizer, whole_ids[len(prompt_ids) :], stop_ids)
        examples.append(EncodedExample(input_ids, len(prompt_ids), 0 if train_eos else 1, is_split))
    return examples


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, template: Template = "chat") -> str:
    """Writes a prompt as text, up to the point where the model has to answer; errors as in :func:`encode_prompt`."""
    check_template(tokenizer, template)
    if template == "plain":
        return PLAIN_PROMPT.format(prompt=prompt)
    return _render_chat(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)


def check_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Raises UserError if the template is unknown, or is ``chat`` and the tokenizer has no chat template."""
    if template not in ("chat", "plain"):
        raise UserError(f"template must be chat or plain, got {template!r}")
    if template == "chat" and tokenizer.chat_template:
        _check_chat(tokenizer)
    elif template == "chat":
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(
            f"template must be one that the model has, got chat for {name!r}, whose tokenizer has no chat template; "
            "say `template: plain`"
        )


def _check_chat(tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks, once a tokenizer and template, that a template writes what it is given."""
    if getattr(tokenizer, _CHECKED, None) == tokenizer.chat_template:
        return
    question, answer = _PROBE
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    prompt = _render_chat(tokenizer, messages[:1], add_generation_prompt=True)
    whole = _render_chat(tokenizer, messages, add_generation_prompt=False)
    if question not in prompt or question not in whole or answer not in whole:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} must write what it is given, of the prompt {question!r} it "
            f"writes {prompt[:80]!r}; say `template: plain`"
        )
    setattr(tokenizer, _CHECKED, tokenizer.chat_template)


def find_stop_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Lists the ids that can end a response: the end token, and the special tokens that have no other role.

    A chat template may end a turn with a token of its own (Gemma's ``<end_of_turn>``).
    """
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    others = {tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}
    return frozenset((special - others) | ({tokenizer.eos_token_id} - {None}))


def render_reply(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, rendered: str, template: Template
) -> str:
    """Writes what stands behind a prompt that `render_prompt` has rendered: the response and the end of the turn.

    Raises:
        UserError: If the template does not write the prompt as the beginning of prompt and response.
    """
    if template == "plain":
        return response
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    whole = _render_chat(tokenizer, messages, add_generation_prompt=False)
    if not whole.startswith(rendered):
        raise UserError(
            "the chat template must write the prompt as the beginning of prompt and response, "
            f"got prompt {rendered[-60:]!r} and conversation {whole[-160:]!r}; say `template: plain`"
        )
    return whole[len(rendered) :]


def _render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    with blame(f"the tokenizer of {tokenizer.name_or_path} must have one chat template"):
        template = _pin_date(tokenizer.get_chat_template())
    return render_messages(tokenizer, messages, template=template, add_generation_prompt=add_generation_prompt)


@lru_cache(maxsize=4)
def _pin_date(chat_template: str) -> str:
    """Writes a fixed date where a template (Llama 3, SmolLM3) asks for today's, so that data is the same every day."""
    return _ASKS_DATE.sub(lambda match: repr(TEMPLATE_DATE.strftime(match[2])), chat_template)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], template: Template) -> list[list[int]]:
    """Encodes texts that begin as `render_prompt` writes them, each with the tokenizer's beginning token once."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    first = _find_first_ids(tokenizer) if template == "plain" else []  # a chat template writes its own
    return [first + list(ids) for ids in encoded]


def _find_first_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Says whether this tokenizer starts plain text with its beginning token."""
    ids = list(tokenizer("")["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _end_with_stop(tokenizer: PreTrainedTokenizerBase, reply_ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    """Cuts what the chat template writes after the stop token, or adds the end token where there is none."""
    last = max((index for index, token in enumerate(reply_ids) if token in stop_ids), default=None)
    if last is not None and not str(tokenizer.decode(reply_ids[last + 1 :])).strip():
        return reply_ids[: last + 1]
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer must have an end token (eos_token), got none")
    return [*reply_ids, tokenizer.eos_token_id]
