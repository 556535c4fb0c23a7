"""`export` and `import`: adapters to and from PEFT, and from mlx-lm and mlx-vlm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_medlora.cli.options import Json, Offline, examples
from mlx_medlora.cli.output import out

EXPORTS = examples(
    "mlx-medlora export adapters/mine exported/mine",
    "mlx-medlora export adapters/mine exported/old --before-4.52",
)
IMPORTS = examples(
    "mlx-medlora import downloads/peft-adapter adapters/theirs --model models/medgemma-4b",
    "mlx-medlora import downloads/peft-adapter adapters/theirs",
    "mlx-medlora import downloads/peft-adapter adapters/theirs --model google/medgemma-4b-it --offline",
)
Written = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="Where to write; must not exist or be empty.")
]


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("export", epilog=EXPORTS)(export)
    app.command("import", epilog=IMPORTS)(import_)


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter directory that `train` wrote.")],
    output: Written,
    before_4_52: Annotated[
        bool,
        typer.Option("--before-4.52", help="For transformers 4.50 and 4.51, with their names."),
    ] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Write an adapter for Hugging Face PEFT, with a model card.

    `PeftModel.from_pretrained` loads it; SigLIP's layers are touched only where they were trained.
    """
    out.use_json(json)
    from mlx_medlora.cli.answering import note_point_left
    from mlx_medlora.lora.exchange import export_adapter

    done = export_adapter(adapter, output, before_4_52=before_4_52)
    note_point_left(adapter)
    out.result(done.model_dump(mode="json"), str(done), f"Wrote {output}")
    if done.warning:
        out.warning(done.warning)


def import_(
    directory: Annotated[
        Path, typer.Argument(metavar="PEFT_DIR", help="Adapter directory of PEFT, mlx-lm or mlx-vlm.")
    ],
    output: Written,
    model: Annotated[
        str | None, typer.Option(help="The base, if not the one that the adapter names.", metavar="MODEL")
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Read an adapter of PEFT, mlx-lm or mlx-vlm.

    Every tensor must bind to a layer of the base; what is not known here is refused by name.
    """
    out.use_json(json)
    from mlx_medlora.lora.exchange import import_adapter

    done = import_adapter(directory, output, model)
    out.result(done.model_dump(mode="json"), str(done), f"Wrote {output}")
    if done.warning:
        out.warning(done.warning)
