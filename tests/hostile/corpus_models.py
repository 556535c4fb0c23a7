"""Models from strangers: their configuration, tokenizer, chat template and image processor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import places
from hostile import Hostile

CONFIG_BYTES: list[tuple[str, bytes, str, str]] = [
    ("empty", b"", ":1", "not valid JSON"),
    ("a list", b"[]", ":1", "expected a JSON object"),
    ("not JSON", b"{\n 'a': 1}", ":2", "not valid JSON"),
    ("Latin-1", b'{"a": "\xe4"}', ":1", "not UTF-8"),
    ("NUL", b'{"a":\n"\0"}', ":2", "NUL byte"),
    ("nested", b'{"a":' * 90_000, "", "nested too deeply"),
    ("20 MB", b'{"a": "' + b"x" * 20_000_000 + b'"}', "", "is the most that is read"),
    ("a million values", b'{"a": [' + b"1," * 1_000_000 + b"1]}", "", "holds more than"),
    ("another model", b'{"model_type": "llama"}', "", "model_type is 'llama'"),
    ("model_type as list", b'{"model_type": ["gemma3"]}', "", "model_type is"),
    ("no text_config", b'{"model_type": "gemma3"}', "", "text_config is missing"),
    ("text_config as list", b'{"model_type": "gemma3", "text_config": []}', "", "text_config is missing"),
    ("a key twice", b'{"model_type": "gemma3", "model_type": "gemma3"}', "", "stands twice"),
    ("NaN", b'{"model_type": "gemma3", "x": NaN}', "", "NaN is not a JSON value"),
]

ABSURD: list[tuple[str, Any]] = [
    ("text__num_hidden_layers", 10**9),
    ("text__num_hidden_layers", -1),
    ("text__num_hidden_layers", 0),
    ("text__num_hidden_layers", "many"),
    ("text__num_hidden_layers", 1.5),
    ("text__num_hidden_layers", [6]),
    ("text__num_hidden_layers", 512),
    ("text__hidden_size", 10**12),
    ("text__hidden_size", -64),
    ("text__hidden_size", {"a": 1}),
    ("text__hidden_size", 65_536),
    ("text__intermediate_size", 10**9),
    ("text__intermediate_size", 262_144),
    ("text__vocab_size", 10**11),
    ("text__vocab_size", 4_194_304),
    ("text__vocab_size", 1),
    ("text__vocab_size", "all"),
    ("text__num_attention_heads", 0),
    ("text__num_attention_heads", 7),
    ("text__num_key_value_heads", 3),
    ("text__num_key_value_heads", -2),
    ("text__head_dim", 10**6),
    ("text__head_dim", 15),
    ("text__layer_types", "sliding_attention"),
    ("text__layer_types", ["sparse"] * 6),
    ("text__layer_types", ["full_attention"]),
    ("text__layer_types", 6),
    ("text__sliding_window", -1),
    ("text__sliding_window", "wide"),
    ("text__max_position_embeddings", 10**18),
    ("text__rms_norm_eps", -1),
    ("text__rms_norm_eps", "small"),
    ("text__query_pre_attn_scalar", 0),
    ("text__rope_theta", "far"),
    ("text__rope_theta", [1]),
    ("text__rope_scaling", [8]),
    ("text__rope_scaling", {"rope_type": "yarn", "factor": 8}),
    ("text__rope_scaling", {"rope_type": "linear", "factor": -8}),
    ("text__rope_parameters", "linear"),
    ("text__hidden_activation", "relu"),
    ("text__final_logit_softcapping", "soft"),
    ("vision__num_hidden_layers", 10**9),
    ("vision__num_hidden_layers", 500),
    ("vision__hidden_size", -1),
    ("vision__hidden_size", 65_000),
    ("vision__image_size", 10**6),
    ("vision__image_size", 0),
    ("vision__patch_size", 0),
    ("vision__patch_size", 10**6),
    ("vision__num_channels", 10**6),
    ("vision__num_attention_heads", 5),
    ("vision__hidden_act", "tanh"),
    ("vision_config", 7),
    ("text_config", "see elsewhere"),
    ("mm_tokens_per_image", 10**9),
    ("mm_tokens_per_image", 17),
    ("mm_tokens_per_image", "256x"),
    ("image_token_index", -5),
    ("image_token_index", 10**9),
    ("image_token_index", 100_000),
    ("image_token_index", "<image>"),
    ("boi_token_index", [1]),
    ("eos_token_id", ["<eos>"]),
    ("eos_token_id", -1),
    ("eos_token_id", {"a": 1}),
    ("quantization", {"bits": 1, "group_size": 64}),
    ("quantization", {"bits": 4, "group_size": 10**9}),
    ("quantization", "gptq"),
    ("quantization_config", {"quant_method": "awq", "bits": 4}),
    ("auto_map", {"AutoModel": "evil.EvilModel"}),
]


def endless_config(place: Path) -> list[str]:
    home = places.model(place)
    (home / "config.json").unlink()
    os.symlink("/dev/zero", home / "config.json")
    return places.convert(place)


TEMPLATES: list[tuple[str, str, str]] = [
    (
        "loops for ever",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "it takes ",
    ),
    ("ten billion letters", "{{ 'a' * (10 ** 10) }}", "it takes "),
    (
        "doubles",
        "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "it takes ",
    ),
    ("writes 30 MB", "{% for i in range(9999) %}{{ 'abc' * 1000 }}{% endfor %}", "characters"),
    ("reaches for classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("reaches for globals", "{{ raise_exception.__globals__['os'] }}", "cannot be used"),
    ("includes a file", "{% include '/etc/passwd' %}", "cannot be used"),
    ("imports a file", "{% import 'os' as os %}{{ os }}", "cannot be used"),
    ("calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot be used"),
    ("no Jinja", "{% if %}", "cannot be used"),
    ("unclosed", "{{ messages", "cannot be used"),
    ("raises", "{{ raise_exception('no \\x1b[2J') }}", "cannot be used"),
    ("divides by zero", "{{ 1 // 0 }}", "cannot be used"),
    ("unknown name", "{{ nothing.at.all }}", "cannot be used"),
    ("a wide number", "{{ '%0999999999d' % 1 }}", "it takes "),
    ("100 KB", "{# " + "x" * 100_000 + " #}", "bytes"),
]

TOKENIZER: list[tuple[str, str, bytes, str]] = [
    ("no JSON", "tokenizer.json", b"{oops", "cannot be read by"),
    ("empty", "tokenizer.json", b"", "cannot be read by"),
    ("an object", "tokenizer.json", b"{}", "cannot be read by"),
    ("nested", "tokenizer.json", b'{"a":' * 5000, "cannot be read by"),
    ("no model", "tokenizer.json", b'{"version": "1.0", "model": {"type": "Magic"}}', "cannot be read by"),
    ("70 MB", "tokenizer.json", b" " * 70_000_000, "the limit is"),
    ("settings no JSON", "tokenizer_config.json", b"{oops", "tokenizer_config.json:1: not valid JSON"),
    ("settings a list", "tokenizer_config.json", b"[]", "expected a JSON object"),
    ("special tokens a list", "special_tokens_map.json", b"[1]", "expected a JSON object"),
    ("template no UTF-8", "chat_template.jinja", b"\xff\xfe", "not UTF-8"),
    ("processor no JSON", "preprocessor_config.json", b"nope", "preprocessor_config.json:1: not valid JSON"),
]

PROCESSOR: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "code",
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
        "auto_map names code",
    ),
    (
        "code for images",
        "preprocessor_config.json",
        {"auto_map": {"AutoProcessor": "evil.E"}},
        "auto_map names",
    ),
    (
        "code in the processor",
        "processor_config.json",
        {"auto_map": {"AutoProcessor": "e.E"}},
        "auto_map names",
    ),
    (
        "images of a billion",
        "preprocessor_config.json",
        {"size": {"height": 10**9, "width": 10**9}},
        "resizes",
    ),
    ("images of -1", "preprocessor_config.json", {"size": {"height": -1, "width": -1}}, "resizes"),
    ("images as text", "preprocessor_config.json", {"size": "big"}, ""),
    ("images by an edge", "preprocessor_config.json", {"size": {"shortest_edge": 10**6}}, "resizes"),
    ("not resized", "preprocessor_config.json", {"do_resize": False}, "resizes"),
    ("pan and scan", "preprocessor_config.json", {"do_pan_and_scan": True}, "pan_and_scan"),
    ("mean of texts", "preprocessor_config.json", {"image_mean": ["a", "b", "c"]}, "image_mean"),
    ("mean of two", "preprocessor_config.json", {"image_mean": [0.5, 0.5]}, "image_mean"),
    ("no deviation", "preprocessor_config.json", {"image_std": [0, 0, 0]}, "image_std"),
    ("a factor as text", "preprocessor_config.json", {"rescale_factor": "x"}, "rescale_factor"),
    ("unknown resampling", "preprocessor_config.json", {"resample": 99}, "resample is 99"),
]


VOCABULARY = json.loads((places.TINY / "tokenizer.json").read_text())
ENDLESS = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}
FLOOD = {"type": "Replace", "pattern": {"String": " "}, "content": "x" * 1_000_000}
SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
RULES: list[tuple[str, dict[str, Any], str]] = [
    (
        "normalises for ever",
        {"normalizer": ENDLESS},
        "tokenizer.json: the tokenizer uses a regular expression",
    ),
    ("in a sequence", {"normalizer": {"type": "Sequence", "normalizers": [ENDLESS]}}, "a regular expression"),
    ("splits for ever", {"pre_tokenizer": SPLIT}, "tokenizer.json: the tokenizer uses a regular expression"),
    ("writes a million letters for one", {"normalizer": FLOOD}, "a replacement of 1000000 characters"),
    (
        "ids beyond the vocabulary",
        {
            "model": VOCABULARY["model"]
            | {"vocab": {k: i + 10**5 * (i > 1600) for k, i in VOCABULARY["model"]["vocab"].items()}}
        },
        "train.jsonl:1: case 'a': the tokenizer gives the token",
    ),
]


def ruled(changed: dict[str, Any]) -> Callable[[Path], list[str]]:
    """A tokenizer of the plain class, which takes its rules from the file."""

    def build(place: Path) -> list[str]:
        made = places.merged(place, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        (place / "model" / "tokenizer.json").write_text(json.dumps(VOCABULARY | changed))
        return made

    return build


def wordless(place: Path) -> list[str]:
    """A model without a vocabulary: transformers makes a tokenizer of it all the same."""
    made = places.merged(place, "tokenizer_config.json")
    (place / "model" / "tokenizer.json").unlink()
    return made


CASES = [
    Hostile("tokenizer: not there", wordless, ("model: no tokenizer.json or tokenizer.model here",)),
    *(Hostile(f"tokenizer: {name}", ruled(changed), (said,)) for name, changed, said in RULES),
    *(
        Hostile(
            f"config: {name}", lambda place, c=content: places.config(place, c), (f"config.json{at}: ", said)
        )
        for name, content, at, said in CONFIG_BYTES
    ),
    *(
        Hostile(
            f"config: {key.replace('__', '.')} = {value!r:.30}",
            lambda place, k=key, v=value: places.config(place, **{k: v}),
            ("config.json",),
        )
        for key, value in ABSURD
    ),
    *(
        Hostile(f"config: no {key}", lambda place, k=key: places.config(place, **{k: ...}), ("config.json",))
        for key in ("model_type", "vision_config", "text__hidden_size", "vision__patch_size")
    ),
    *(
        Hostile(
            f"template: {name}",
            lambda place, t=text: places.companion(place, "chat_template.jinja", t.encode()),
            ("chat_template.jinja: ", said),
        )
        for name, text, said in TEMPLATES
    ),
    *(
        Hostile(
            f"tokenizer: {name}",
            lambda place, f=file, c=content: places.companion(place, f, c),
            (f"{file}:", said),
        )
        for name, file, content, said in TOKENIZER
    ),
    *(
        Hostile(
            f"processor: {name}",
            lambda place, f=file, v=values: places.merged(place, f, **v),
            (f"{file}:", said),
        )
        for name, file, values, said in PROCESSOR
    ),
    Hostile("config: endless", endless_config, ("model: ", "no config.json")),
    Hostile(
        "generation config: texts",
        lambda place: places.merged(place, "generation_config.json", eos_token_id=["<eos>"]),
        ("generation_config.json: ",),
    ),
]
