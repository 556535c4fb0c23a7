"""Models from strangers: configuration, headers and data of the weights, tokenizer, template, image processor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import places
from hostile import Hostile

Header = dict[str, Any]

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


def packed(header: Any, data: bytes = b"\0" * 64) -> bytes:
    """A safetensors file with this header, as JSON or as given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def f32(start: int = 0, end: int = 16, shape: list[Any] | None = None, dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": shape or [4], "data_offsets": [start, end]}


FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("three bytes", b"abc", "damaged or cut off"),
    ("zeros", b"\0" * 100, "damaged"),
    ("header of 2^63 bytes", (2**63).to_bytes(8, "little") + b"{}", "damaged or cut off: a header of"),
    ("header beyond the file", (1000).to_bytes(8, "little") + b"{}", "a header of 1,000 bytes"),
    ("header of 20 MB", packed(b"{" + b" " * 20_000_000 + b"}"), "the limit is 16,777,216"),
    ("header not JSON", packed(b"{oops"), "damaged"),
    ("header a list", packed(b"[]"), "damaged"),
    ("header a text", packed(b'"x"'), "damaged"),
    ("header not UTF-8", packed(b'{"\xff": 1}'), "damaged"),
    ("header nested", packed(b'{"a":' * 5000), "damaged"),
    ("offsets beyond the file", packed({"a": f32(0, 10**9, [250_000_000])}), "damaged"),
    ("offsets backwards", packed({"a": f32(16, 0)}), "damaged"),
    ("negative offsets", packed({"a": f32(-16, 0)}), "damaged"),
    ("overlapping offsets", packed({"a": f32(), "b": f32(8, 24)}, b"\0" * 24), "damaged"),
    ("same bytes twice", packed({"a": f32(), "b": f32()}, b"\0" * 16), "damaged"),
    ("a hole between", packed({"a": f32(), "b": f32(32, 48)}, b"\0" * 48), "damaged"),
    ("bytes behind", packed({"a": f32()}, b"\0" * 999), "damaged"),
    ("shape and bytes differ", packed({"a": f32(0, 16, [5])}, b"\0" * 16), "damaged"),
    ("shape overflows", packed({"a": f32(0, 16, [2**40, 2**40])}, b"\0" * 16), "damaged"),
    ("negative shape", packed({"a": f32(0, 16, [-4])}, b"\0" * 16), "damaged"),
    ("shape of texts", packed({"a": f32(0, 16, ["4"])}, b"\0" * 16), "damaged"),
    ("unknown dtype", packed({"a": f32(dtype="F128")}, b"\0" * 16), "damaged"),
    ("no dtype", packed({"a": {"shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16), "damaged"),
    ("double precision", packed({"a": f32(0, 16, [2], "F64")}, b"\0" * 16), "is F64"),
    ("whole numbers", packed({"a": f32(0, 16, [2], "I64")}, b"\0" * 16), "is I64"),
    ("truth values", packed({"a": f32(0, 16, [16], "BOOL")}, b"\0" * 16), "is BOOL"),
    ("metadata of numbers", packed({"__metadata__": {"a": 1}, "a": f32()}, b"\0" * 16), "damaged"),
    ("metadata a list", packed({"__metadata__": [], "a": f32()}, b"\0" * 16), "damaged"),
    (
        "a tensor twice",
        packed(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},' * 1
            + b'"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            b"\0" * 16,
        ),
        "",
    ),
    ("no tensors", packed(b"{}", b""), "missing"),
    (
        "100,000 strangers",
        packed({f"x{i}": f32(i, i + 1, [1], "U8") for i in range(100_000)}, b"\0" * 100_000),
        "",
    ),
    ("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    ("a pickle inside", b"\x80\x02}q\x00.", "pickle"),
    ("torch.save inside", b"PK\x03\x04" + b"\0" * 200, "pickle"),
    ("HTML", b"<!DOCTYPE html><html>Access denied</html>", "damaged"),
]


def read(content: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def without(name: str) -> Callable[[bytes], bytes]:
    """The weights with one tensor under another name."""

    def change(content: bytes) -> bytes:
        header, data = read(content)
        header[f"{name}.renamed"] = header.pop(name)
        return packed(header, data)

    return change


def reshaped(name: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header, data = read(content)
        header[name]["shape"] = [*header[name]["shape"][::-1], 1]
        return packed(header, data)

    return change


def spoilt(name: str, value: float) -> Callable[[bytes], bytes]:
    """The weights with one value that is no number."""

    def change(content: bytes) -> bytes:
        header, data = read(content)
        start, end = header[name]["data_offsets"]
        tensor = bytearray(data[start:end])
        number = np.float32(value).tobytes()
        kind = header[name]["dtype"]
        tensor[-len(number) if kind == "F32" else -2 :] = number if kind == "F32" else number[2:]
        return packed(header, data[:start] + bytes(tensor) + data[end:])

    return change


def cut(content: bytes) -> bytes:
    return content[:-1000]


NORM = "language_model.model.layers.0.input_layernorm.weight"
Q = "language_model.model.layers.2.self_attn.q_proj.weight"
PROJECTOR = "multi_modal_projector.mm_input_projection_weight"
CHANGED: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("cut short", cut, "damaged"),
    ("a missing tensor", without(Q), "missing"),
    ("another shape", reshaped(NORM), "wrong shape"),
    ("NaN in a norm", spoilt(NORM, float("nan")), "NaN or infinity"),
    ("NaN in a matrix", spoilt(Q, float("nan")), "NaN or infinity"),
    ("infinity in the projector", spoilt(PROJECTOR, float("inf")), "NaN or infinity"),
]


def pickled(*names: str) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        home = places.model(place)
        (home / "model.safetensors").unlink()
        for name in names:
            (home / name).write_bytes(b"\x80\x04cos\nsystem\n.")
        return places.convert(place)

    return build


def index(content: Any) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        home = places.model(place)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (home / "model.safetensors.index.json").write_bytes(text)
        return places.convert(place)

    return build


def piped_weights(place: Path) -> list[str]:
    home = places.model(place)
    (home / "model.safetensors").unlink()
    os.mkfifo(home / "weights.safetensors")
    return places.convert(place)


def endless_config(place: Path) -> list[str]:
    home = places.model(place)
    (home / "config.json").unlink()
    os.symlink("/dev/zero", home / "config.json")
    return places.convert(place)


INDEXES: list[tuple[str, Any, str]] = [
    ("not JSON", b"{oops", "not valid JSON"),
    ("a list", [], "weight_map"),
    ("no map", {"weight_map": {}}, "weight_map"),
    ("climbs out", {"weight_map": {"a": "../../other.safetensors"}}, "no .safetensors name"),
    ("absolute", {"weight_map": {"a": "/etc/passwd"}}, "no .safetensors name"),
    ("names a pickle", {"weight_map": {"a": "pytorch_model.bin"}}, "no .safetensors name"),
    ("a number", {"weight_map": {"a": 7}}, "no .safetensors name"),
    ("missing files", {"weight_map": {"a": "gone.safetensors"}}, "not there"),
    ("a tensor in no file", {"weight_map": {"ghost": "model.safetensors"}}, "in no file"),
]

TEMPLATES: list[tuple[str, str, str]] = [
    (
        "loops for ever",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "longer",
    ),
    ("ten billion letters", "{{ 'a' * (10 ** 10) }}", "memory"),
    (
        "doubles",
        "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "memory",
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
    ("a wide number", "{{ '%0999999999d' % 1 }}", "memory"),
    ("100 KB", "{# " + "x" * 100_000 + " #}", "bytes"),
]

TOKENIZER: list[tuple[str, str, bytes, str]] = [
    ("no JSON", "tokenizer.json", b"{oops", "cannot be read"),
    ("empty", "tokenizer.json", b"", "cannot be read"),
    ("an object", "tokenizer.json", b"{}", "cannot be read"),
    ("nested", "tokenizer.json", b'{"a":' * 5000, "cannot be read"),
    ("no model", "tokenizer.json", b'{"version": "1.0", "model": {"type": "Magic"}}', "cannot be read"),
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


def _file(said: str) -> str:
    """Which of them is named: what does not fit together is said of the directory."""
    return "model: " if said in ("missing", "wrong shape") else "model.safetensors"


CASES = [
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
            f"weights: {name}",
            lambda place, c=content: places.weights(place, lambda _: c),
            (_file(said), said),
        )
        for name, content, said in FILES
    ),
    *(
        Hostile(f"weights: {name}", lambda place, c=change: places.weights(place, c), ("model", said))
        for name, change, said in CHANGED
    ),
    *(
        Hostile(
            f"weights, to train: {name}",
            lambda place, c=change: places.trained(place, c),
            ("model", said),
        )
        for name, change, said in CHANGED
    ),
    *(
        Hostile(f"pickle: {name}", pickled(name), ("model: ", "pickles", name, "can run code"))
        for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "weights.npz", "model.pkl")
    ),
    *(
        Hostile(f"index: {name}", index(content), ("model.safetensors.index.json:", said))
        for name, content, said in INDEXES
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
            ("model", said),
        )
        for name, file, content, said in TOKENIZER
    ),
    *(
        Hostile(
            f"processor: {name}",
            lambda place, f=file, v=values: places.merged(place, f, **v),
            ("model", said),
        )
        for name, file, values, said in PROCESSOR
    ),
    Hostile("weights: a pipe", piped_weights, ("weights.safetensors: ", "not a regular file")),
    Hostile("config: endless", endless_config, ("model: ", "no config.json")),
    Hostile(
        "generation config: texts",
        lambda place: places.merged(place, "generation_config.json", eos_token_id=["<eos>"]),
        ("generation_config.json: ",),
    ),
]
