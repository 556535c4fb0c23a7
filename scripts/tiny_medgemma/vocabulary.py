"""A small tokenizer with Gemma 3's structure: the same first 494 ids, learned pieces, image tokens last."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from mlx_medlora.files import write_json

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
NEWLINES = range(1, 32)
FIRST_BYTE, FIRST_PIECE = 238, 494
IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
SIDE, SOFT_TOKENS = 112, 16

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content | trim -}}
    {%- else -%}
        {%- for piece in content -%}
            {%- if piece['type'] == 'image' -%}
                {{- '<start_of_image>' -}}
            {%- else -%}
                {{- piece['text'] | trim -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set system = namespace(text='') -%}
{%- set turns = namespace(list=messages) -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system.text = text_of(messages[0]['content']) + '\\n\\n' -%}
    {%- set turns.list = messages[1:] -%}
{%- endif -%}
{%- for message in turns.list -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('User and assistant take turns, the user first') -}}
    {%- endif -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' -}}
    {{- system.text if loop.first -}}
    {{- text_of(message['content']) -}}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Ids:
    """The ids that the model's configuration names."""

    vocabulary: int
    start_of_image: int
    end_of_image: int
    soft_token: int


def learn(texts: Iterable[str], pieces: int) -> tuple[Tokenizer, Ids]:
    """Learn `pieces` byte-pair pieces from `texts` and give them the place after Gemma's fixed ids."""
    learned = _learned_pieces(texts, pieces)
    fixed = _fixed_tokens()
    vocabulary = {token: index for index, token in enumerate(fixed)}
    for piece in learned.vocabulary:
        vocabulary.setdefault(piece, len(vocabulary))
    for token in IMAGE_TOKENS:
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, learned.merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = TemplateProcessing("<bos> $A", "<bos> $A <bos>:1 $B:1", [("<bos>", 2)])
    _add_whole_tokens(tokenizer)
    return tokenizer, Ids(len(vocabulary), *(vocabulary[token] for token in IMAGE_TOKENS))


@dataclass(frozen=True)
class _Learned:
    vocabulary: list[str]
    merges: list[tuple[str, str]]


def _learned_pieces(texts: Iterable[str], pieces: int) -> _Learned:
    """Byte-pair pieces of `texts`; a word keeps the space before it, a newline stands alone."""
    scratch = Tokenizer(models.BPE())
    scratch.normalizer = normalizers.Replace(" ", "▁")
    scratch.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "removed"), pre_tokenizers.Split("▁", "merged_with_next")]
    )
    scratch.train_from_iterator(
        sorted(set(texts)), trainers.BpeTrainer(vocab_size=pieces, show_progress=False)
    )
    model = json.loads(scratch.to_str())["model"]
    ordered = sorted(model["vocab"], key=model["vocab"].get)
    return _Learned(ordered, [(left, right) for left, right in model["merges"]])


def _fixed_tokens() -> list[str]:
    """Ids 0 to 493 as in Gemma 3: control tokens, turns, runs of newlines, bytes; the rest unused."""
    tokens = [
        *SPECIAL,
        "[multimodal]",
        *(f"<unused{n}>" for n in range(99)),
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    tokens += ["\n" * count for count in NEWLINES]
    tokens += [f"<unused{n}>" for n in range(99, 99 + FIRST_BYTE - len(tokens))]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    assert len(tokens) == FIRST_PIECE
    return tokens


def _add_whole_tokens(tokenizer: Tokenizer) -> None:
    """Tokens that are never split: the control tokens (special), and runs of newlines."""
    from tokenizers import AddedToken

    special = [*SPECIAL, "<start_of_turn>", "<end_of_turn>", *IMAGE_TOKENS]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    plain = ["[multimodal]", "<unused94>", "<unused95>", *("\n" * count for count in NEWLINES)]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])


def write(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer, chat template and processor files into `directory`."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    image = {"boi_token": IMAGE_TOKENS[0], "eoi_token": IMAGE_TOKENS[1], "image_token": IMAGE_TOKENS[2]}
    settings: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "extra_special_tokens": image,
        "model_max_length": 2048,
        "pad_token": "<pad>",
        "padding_side": "left",
        "processor_class": "Gemma3Processor",
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
    }
    write_json(directory / "tokenizer_config.json", settings | image)
    write_json(
        directory / "special_tokens_map.json",
        {key: settings[key] for key in settings if "_token" in key[-6:]},
    )
    write_json(directory / "preprocessor_config.json", _image_processor())
    processor = {"image_seq_length": SOFT_TOKENS, "processor_class": "Gemma3Processor"}
    write_json(directory / "processor_config.json", processor)


def _image_processor() -> dict[str, Any]:
    """SigLIP's preprocessing, at this model's size: bilinear resize, then pixel values from -1 to 1."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": SOFT_TOKENS,
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
