"""Tiny models that say what a test wants: each token has one that follows it, or shares of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH = 320
SPECIAL = ("<s>", "</s>")


def make_tokenizer(pieces: Sequence[str] = (), chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Makes a tokenizer of bytes that writes some pieces of text as one token each, and puts <s> first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    made.add_tokens([piece for piece in pieces if piece not in vocabulary])
    made.chat_template = chat_template
    return made


def make_guard(
    folder: Path,
    follows: Mapping[str, str | Mapping[str, float]],
    *,
    pieces: Sequence[str] = (),
    chat_template: str | None = None,
) -> str:
    """Saves a model of one empty layer, in which the last token alone says what follows.

    Args:
        folder: Where to.
        follows: For a token, the token that follows it, or the probabilities of several.
        pieces: Texts that are one token each, besides the bytes.
        chat_template: The tokenizer's chat template.

    Returns:
        The folder.
    """
    tokenizer = make_tokenizer(pieces, chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), WIDTH))
        for token, after in follows.items():
            shares = {after: 1.0} if isinstance(after, str) else after
            for one, share in shares.items():
                logit = 60.0 + math.log(share)  # beside 0 for all other tokens
                model.lm_head.weight[find(tokenizer, one), find(tokenizer, token)] = logit / math.sqrt(WIDTH)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def find(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """Returns the id of a text that is one token."""
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(token)
