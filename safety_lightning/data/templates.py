"""Runs chat templates: programs that came with a model, in a sandbox, with limits of time, memory and text.

A template can read and write no file (transformers runs it in Jinja's sandbox), but it can loop and grow without end.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from safety_lightning.checkpoints import blame
from safety_lightning.errors import UserError

MAX_TEMPLATE_CHARACTERS = 2**20
MAX_SECONDS = 5.0
MAX_GROWTH = 2**20  # characters that a template may add to the messages, each of which it may repeat
_MAX_REPEATS = 8
_MAX_BYTES = 2**30
_STATM = Path("/proc/self/statm")


def render_messages(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    *,
    template: str,
    add_generation_prompt: bool,
) -> str:
    """Writes messages as text.

    Args:
        tokenizer: The model's tokenizer, whose special tokens the template may write.
        messages: Each with its role and content, a text or a list of parts with a text each.
        template: The chat template.
        add_generation_prompt: Whether the text ends where the model has to answer.

    Raises:
        UserError: If the template is too long, is none that Jinja reads, refuses the messages, or takes too much
            time, memory or text.
    """
    name = f"the chat template of {tokenizer.name_or_path or type(tokenizer).__name__}"
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise UserError(f"{name} must have at most {MAX_TEMPLATE_CHARACTERS} characters, it has {len(template)}")
    with blame(f"{name} must be one that can be rendered"), _limit(name):
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, chat_template=template
        )
    limit = _MAX_REPEATS * sum(len(str(message["content"])) for message in messages) + MAX_GROWTH
    if not isinstance(text, str) or len(text) > limit:
        raise UserError(f"{name} must write at most {limit} characters of these messages, it wrote {len(text)}")
    return text


@contextmanager
def _limit(name: str) -> Iterator[None]:
    """Stops what takes too long, in the main thread, or too much memory, on Linux."""
    with _limit_memory(name), _limit_seconds(name):
        yield


@contextmanager
def _limit_seconds(name: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield  # signals reach the main thread alone
        return

    def stop(*_: Any) -> None:
        raise UserError(f"{name} must be rendered within {MAX_SECONDS:g} seconds, it was not")

    handler = signal.signal(signal.SIGALRM, stop)
    before = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def _limit_memory(name: str) -> Iterator[None]:
    if not _STATM.is_file():
        yield  # macOS does not hold to such a limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(_STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + _MAX_BYTES
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    except (MemoryError, OverflowError) as error:
        raise UserError(f"{name} must be rendered within {_MAX_BYTES} bytes of memory, it was not") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
