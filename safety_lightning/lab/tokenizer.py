"""The lab's tokenizer: one token a word, one a digit, one a punctuation mark."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safety_lightning.lab.world import list_words

PAD, UNKNOWN, BOS, EOS, USER, ASSISTANT = "<|pad|>", "<|unk|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, BOS, EOS, USER, ASSISTANT)
PLAIN_WORDS = ("###", "Instruction", "Response")  # the words of the plain prompt format
SPACE = "\u2581"  # a word carries the space before it, so that decoding gives the text back

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first -%}{{- bos_token -}}{%- endif -%}
{%- if message['role'] == 'user' -%}{{- '<|user|>' + message['content'] -}}
{%- elif message['role'] == 'assistant' -%}{{- '<|assistant|>' -}}\
{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}
{%- else -%}{{- raise_exception('role must be user or assistant, got ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer from the world's words.

    Returns:
        A tokenizer with a chat template for user and assistant turns, in which the padding token is not the end
        token, the tokens of a prompt are the first tokens of prompt and response, and an answer stops at the end token.
    """
    vocabulary = {token: index for index, token in enumerate(_list_tokens())}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.normalizer = normalizers.Replace(Regex(r"\n(?![\n ]|$)"), "\n ")  # a word after a new line needs its space
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(rf"{SPACE}?([A-Za-z]+|#+|[0-9]|[^\sA-Za-z0-9{SPACE}])|\n"), "isolated"),
        ]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def _list_tokens() -> list[str]:
    digits = [str(digit) for digit in range(10)]
    spaced = [*digits, "+", "-", "=", *PLAIN_WORDS, *list_words()]
    return [*SPECIAL_TOKENS, "\n", *digits, ",", ".", "?", ":", *(SPACE + token for token in spaced)]
