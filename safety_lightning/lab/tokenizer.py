"""The lab's tokenizer: one token per word, digit or punctuation mark."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safety_lightning.lab.vocabulary import list_words

PAD, UNKNOWN, BOS, EOS, USER, ASSISTANT = "<|pad|>", "<|unk|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, BOS, EOS, USER, ASSISTANT)
MAX_LENGTH = 256  # tokens of prompt and answer

_PLAIN_FORMAT_WORDS = ("###", "Instruction", "Response")
_SPACE = "\u2581"  # stands for the space before a word and is part of the word's token
_TOKEN = Regex(rf"{_SPACE}?([A-Za-z]+|#+|[0-9]|[^\sA-Za-z0-9#{_SPACE}])|\n")
_BARE_NEW_LINE = Regex(r"\n(?![\n ]|$)")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if loop.first -%}{{- bos_token -}}{%- endif -%}
  {%- if message['role'] == 'user' -%}
    {{- '<|user|>' + message['content'] -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}
  {%- else -%}
    {{- raise_exception('role must be user or assistant, got ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer from the words of the world.

    Texts of the world come back unchanged from decoding. The chat template knows user and assistant turns; a prompt
    with the generation prompt is the beginning, token by token, of prompt and response; an assistant's turn ends in
    the end token, which is not the padding token.

    Returns:
        The tokenizer, the same one at every call.
    """
    vocabulary = {token: index for index, token in enumerate(_list_tokens())}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.normalizer = normalizers.Replace(_BARE_NEW_LINE, "\n ")  # words exist with their space only
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(_TOKEN, behavior="isolated"),
        ]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.Fuse(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _list_tokens() -> list[str]:
    digits = [str(digit) for digit in range(10)]
    spaced = [*digits, "+", "-", "=", *_PLAIN_FORMAT_WORDS, *list_words()]
    return [*SPECIAL_TOKENS, "\n", *digits, ",", ".", "?", ":", *(_SPACE + token for token in spaced)]
