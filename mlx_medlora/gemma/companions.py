"""What is refused in a checkpoint's tokenizer, image processor and chat template: a stranger's perhaps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.gemma.config import ModelConfig, refuse_code
from mlx_medlora.gemma.templates import MAX_BYTES, Conversation, Renderer, is_known
from mlx_medlora.textfiles import read_text

TEMPLATE = "chat_template.jinja"
_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model")
_VOCABULARY_BYTES = 64 << 20  # Gemma's has 33 MB, and takes eight times that while it loads
_REPLACEMENT = 16  # characters that one may become
_REFETCH = "Convert the model again from its source, which carries these files."


class Render(Protocol):
    """Turns a conversation into text, to be continued with `prompt`."""

    def __call__(self, conversation: Conversation, *, prompt: bool) -> str:
        """The conversation's text."""
        ...


def refuse_odd_files(directory: Path) -> None:
    """Raise InputError for settings that are no JSON object or name code to run, and huge vocabularies."""
    for name in _SETTINGS:
        if (directory / name).is_file():
            raw = read_json(directory / name)
            if not isinstance(raw, dict):
                raise InputError("expected a JSON object", path=directory / name, line=1)
            refuse_code(raw, directory / name)
    if (directory / TEMPLATE).is_file():
        read_text(directory / TEMPLATE, MAX_BYTES)
    for path in (directory / name for name in _VOCABULARIES):
        if path.is_file() and path.stat().st_size > _VOCABULARY_BYTES:
            size = path.stat().st_size
            raise InputError(f"has {size:,} bytes; the limit is {_VOCABULARY_BYTES:,}", path=path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say what transformers cannot read: its readers, and Rust below them, raise anything."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, InputError, MemoryError):
        raise
    except BaseException as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        where = path if path.is_file() else path.parent
        raise InputError(f"cannot be read by transformers: {reason}", path=where, hint=_REFETCH) from error


def refuse_odd_rules(tokenizer: Any, directory: Path) -> None:
    """Raise InputError for rules that can take for ever or write gigabytes; Gemma's are none of these."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in (getattr(backend, "normalizer", None), getattr(backend, "pre_tokenizer", None)):
        rules = [] if part is None else [json.loads(part.__getstate__())]
        for rule in rules:
            children = rule.values() if isinstance(rule, dict) else rule if isinstance(rule, list) else ()
            rules += [child for child in children if isinstance(child, (dict, list))]
            if not isinstance(rule, dict):
                continue
            longest = max((len(str(rule.get(key) or "")) for key in ("content", "prepend")), default=0)
            if "Regex" in rule or longest > _REPLACEMENT:
                what = "a regular expression" if "Regex" in rule else f"a replacement of {longest} characters"
                path = directory / _VOCABULARIES[0]
                raise InputError(
                    f"the tokenizer uses {what}, which Gemma's does not", path=path, hint=_REFETCH
                )


def refuse_odd_images(images: Any, config: ModelConfig, directory: Path) -> None:
    """Raise InputError for an image processor that makes other pixels than the tower takes."""
    assert config.vision is not None
    side, path = config.vision.image_size, directory / "preprocessor_config.json"
    size = dict(images.size or {})
    if images.do_resize is not True or (size.get("height"), size.get("width")) != (side, side):
        raise InputError(f"resizes images to {size or None}; config.json says {side} x {side}", path=path)
    if images.resample not in range(6):  # Pillow's filters
        raise InputError(f"resample is {images.resample!r:.40}, which names no filter", path=path)
    if images.do_pan_and_scan:
        raise InputError("do_pan_and_scan is set: one image would become several", path=path)
    scale = [images.rescale_factor, *(images.image_mean or ()), *(images.image_std or ())]
    numbers = all(isinstance(value, (int, float)) and abs(value) < 1e6 for value in scale)
    if len(scale) != 7 or not numbers or not all(images.image_std):
        raise InputError("image_mean, image_std and rescale_factor are not those of an image", path=path)


def renderer(tokenizer: Any) -> Render:
    """The function that renders with the tokenizer's chat template: in a process of its own, unless known."""
    template = str(tokenizer.chat_template)
    if is_known(template):

        def render(conversation: Conversation, *, prompt: bool) -> str:
            text: str = tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=prompt
            )
            return text

        return render
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _renderer(template, tuple(tokens.items()), Path(str(tokenizer.name_or_path)) / TEMPLATE)


@lru_cache(maxsize=2)
def _renderer(template: str, tokens: tuple[tuple[str, str], ...], path: Path) -> Renderer:
    """One process for all who render with a template."""
    return Renderer(template, dict(tokens), path)


def try_template(tokenizer: Any, config: ModelConfig, directory: Path) -> None:
    """Raise InputError for a stranger's chat template that fails, or does not end, on plain words."""
    render = renderer(tokenizer)
    if not isinstance(render, Renderer):
        return
    user = [{"type": "text", "text": "Is this right?"}]
    if not config.text_only:
        user.insert(0, {"type": "image"})
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    ]
    render(turns[:-1], prompt=True)
    render(turns, prompt=False)
