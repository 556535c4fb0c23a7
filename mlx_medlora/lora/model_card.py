"""The README.md that travels with an exported adapter, in the hub's model-card form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, StrictUndefined

from mlx_medlora import __version__
from mlx_medlora.files import read_json
from mlx_medlora.lora.adapter import AdapterConfig
from mlx_medlora.lora.provenance import RUN, Provenance
from mlx_medlora.percent import between, percent

CARD = "README.md"
_YAML_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")

_HEAD = """\
---
base_model: {{ base | yaml }}
library_name: {{ library }}
pipeline_tag: image-text-to-text
license: other
license_name: health-ai-developer-foundations
license_link: https://developers.google.com/health-ai-developer-foundations/terms
tags: [medgemma, lora, clinical-error-detection, mlx-medlora]
---

# {{ heading }}

**Research use only. Not a medical device, not clinically validated.** Do not use it to decide on the care
of patients.
"""

_TEMPLATE = """
## The adapter

| | |
|---|---|
| base model | `{{ base }}` |
| layers | {{ made.layers }} ({{ made.target }}) |
| rank, alpha, dropout | {{ made.rank }}, {{ "%g" % made.alpha }}, {{ "%g" % made.dropout }} |
| form | {{ made.form }} |
{%- if made.saved %}
| saved whole | {{ made.saved }} |
{%- endif %}
| written by | {{ made.writer }} |

## Training data

{% if data -%}
| split | cases | supervised tokens | SHA-256 |
|---|---|---|---|
{%- for split, about in data.items() %}
| {{ split }} | {{ about.rows }} | {{ about.supervised_tokens }} | `{{ about.sha256[:16] }}` |
{%- endfor %}
{%- else -%}
Not recorded.
{%- endif %}
{%- if source %}

Source: {{ source }}
{%- endif %}
{%- if others %}

Also trained on, through the base or replayed rows: {{ others | join("; ") }}
{%- endif %}
{%- if warning %}

**Credentialed data**: {{ warning }}
{%- endif %}

What of the data this directory holds:
{% for line in contains %}
- {{ line }}
{%- else %}
- Not known: another tool made the adapter.
{%- endfor %}

## Figures of training

{% if figures -%}
| figure | value |
|---|---|
{%- for name, value in figures.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}

{% if chose %}The validation cases chose the epoch; they{% else %}They{% endif %} are no evidence of
clinical use. Held-out figures, with their intervals, come from `mlx-medlora eval`.
{%- else -%}
Not recorded.
{%- endif %}

## Use

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base = AutoModelForImageTextToText.from_pretrained("{{ base }}")
model = PeftModel.from_pretrained(base, "this directory")
```

"""

_MARKS = """
## Training data

Its weights were trained on: {{ sources | join("; ") }}
{%- if warning %}

**Credentialed data**: {{ warning }}
{%- endif %}
"""

_LICENCE = """\
## Licence

MedGemma is provided under and subject to the Health AI Developer Foundations Terms of Use, found at
https://developers.google.com/health-ai-developer-foundations/terms. An adapter of it, and a
model fused with one, is a derivative: who passes it on passes on these terms, and the restriction of clinical
use that they contain.
"""


@dataclass(frozen=True)
class Made:
    """How an adapter was made, as its card says it."""

    base: str
    layers: int
    target: str
    rank: str
    alpha: float
    dropout: float
    form: str
    saved: str
    writer: str


def model_card(adapter: Path, config: AdapterConfig, about: Provenance) -> str:
    """The model card of the adapter in `adapter`: its data as `about` says, the figures of its `run.json`."""
    path = adapter / RUN
    raw = read_json(path) if path.is_file() else {}
    run: dict[str, Any] = raw if isinstance(raw, dict) else {}
    made = Made(
        base=config.base.id,
        layers=len(config.modules),
        target=", ".join(config.target),
        rank=str(config.rank),
        alpha=config.alpha,
        dropout=config.dropout,
        form=form_of(dora=config.dora, rslora=config.rslora),
        saved=", ".join(config.save_modules),
        writer=f"mlx-medlora {__version__}",
    )
    return card_of(made, about, _figures(run), chose=run.get("best_by") == "validation loss")


def form_of(*, dora: bool, rslora: bool) -> str:
    """`LoRA`, `rank-stabilised DoRA`..."""
    kind = "DoRA" if dora else "LoRA"
    return f"rank-stabilised {kind}" if rslora else kind


def card_of(made: Made, about: Provenance, figures: dict[str, str], *, chose: bool = False) -> str:
    """The model card of an adapter so made, of this data, with the figures that training gave.

    `chose`: whether the validation cases, which these figures are of, chose the epoch.
    """
    return _rendered(
        _HEAD + _TEMPLATE + _LICENCE,
        base=made.base,
        library="peft",
        heading=f"LoRA adapter for {shown(made.base)}",
        made=made,
        data=about.splits,
        **_marks(about),
        contains=about.contains,
        figures=figures,
        chose=chose,
    )


def base_card(model: str, about: Provenance = Provenance(contains=())) -> str:
    """The model card of a model without an adapter, a fused one for example: terms and notice, no figures.

    `about` says what is known of the data that its weights were trained on.
    """
    name = PurePath(model).name or model
    marks = _MARKS if about.sources else ""
    return _rendered(
        f"{_HEAD}{marks}\n{_LICENCE}",
        base=name,
        library="mlx",
        heading=shown(name),
        **_marks(about),
    )


def _rendered(template: str, **values: Any) -> str:
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    environment.filters["yaml"] = _yaml
    return environment.from_string(template).render(values)


def _yaml(text: str) -> str:
    """A word as it stands, and anything else in quotes: a name is no YAML."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text)


def _figures(run: dict[str, Any]) -> dict[str, str]:
    labels = {
        "val_loss": "validation loss",
        "val_accuracy": "validation accuracy",
        "best_epoch": "best epoch",
        "updates": "updates",
    }
    numbers = {label: run.get(key) for key, label in labels.items()}
    told = {label: f"{value:.4g}" for label, value in numbers.items() if isinstance(value, (int, float))}
    match run.get("val_accuracy"), run.get("val_accuracy_interval"):
        case int() | float() as share, [int() | float() as low, int() | float() as high] if (
            0 <= low <= share <= high <= 1
        ):
            told[labels["val_accuracy"]] = f"{percent(share)} (95 % interval {between((low, high))} %)"
        case int() | float() as share, _ if 0 <= share <= 1:
            told[labels["val_accuracy"]] = percent(share)
    return told


def shown(text: str, longest: int = 200) -> str:
    """On one line, cut, and no markup: for what a card repeats of others' files."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    cut = line if len(line) <= longest else f"{line[: longest - 3]}..."
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", cut)


def _marks(about: Provenance) -> dict[str, Any]:
    """The marks' words, which are others', without markup; none is cut."""
    whole = 1_000_000
    return {
        "source": about.source and shown(str(about.source), whole),
        "others": [shown(str(mark), whole) for mark in about.others],
        "sources": [shown(str(mark), whole) for mark in about.sources],
        "warning": about.warning and shown(about.warning, whole),
    }
