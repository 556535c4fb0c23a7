"""`eval`: a model, with or without an adapter, answers a split; the answers become a scorecard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlx_medlora.cli.options import (
    Adapter,
    Data,
    FeaturesAt,
    FeaturesLimit,
    Json,
    Model,
    NoFeatures,
    Output,
    Verify,
    examples,
    feature_settings,
    verify_model,
)
from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = examples(
    "mlx-medlora eval --model models/medgemma-4b --data lora_training --output runs/base",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases --output runs/first",
    "mlx-medlora eval --model tiny-medgemma --data lora_training --method generate --output runs/words",
    "mlx-medlora eval --model /volumes/usb/medgemma-4b --data cases --output runs/copied --verify",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("eval", epilog=EXAMPLES)(evaluate)


def evaluate(
    model: Model,
    data: Data,
    output: Output,
    adapter: Adapter = None,
    split: Annotated[str, typer.Option(help="Which of the dataset's splits to answer.")] = "val",
    method: Annotated[
        Literal["score", "generate"],
        typer.Option(help="score: the two verdicts' probabilities; generate: the answer as written."),
    ] = "score",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Most cases answered at once; by default as many as pays.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of --method generate.")] = 64,
    features: FeaturesAt = None,
    features_limit: FeaturesLimit = None,
    no_features: NoFeatures = False,
    verify: Verify = False,
    json: Json = False,
) -> None:
    """Measure a model on one split of a dataset.

    Accuracy and the card's rates, with 95 % intervals and for each modality.
    Writes scorecard.json and predictions.jsonl. Research tool, not a medical device.
    """
    out.use_json(json)
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.evaluation.runner import evaluate as answer
    from mlx_medlora.evaluation.runner import write_evaluation
    from mlx_medlora.evaluation.tables import scorecard_table
    from mlx_medlora.features.opening import open_features
    from mlx_medlora.files import refuse_unwritable
    from mlx_medlora.gemma.processor import Encoder
    from mlx_medlora.lora.load import load

    kept = feature_settings(features, features_limit, no_features)
    refuse_unwritable(output)
    dataset = Dataset.open(data)
    dataset.refuse_shared_ids()
    cases = dataset.cases(split)  # faults in the data are said before the model loads
    verify_model(model, verify)
    network, processor = load(model, adapter)
    encoder = Encoder(processor, network.config)
    images = any(case.image_paths for case in cases)
    with (
        open_features(network, encoder, kept, data, out.warning, images=images) as seen,
        out.progress(f"answering {split}") as step,
    ):
        found = answer(
            network,
            encoder,
            dataset,
            split,
            method=method,
            batch_size=batch_size,
            max_tokens=max_tokens,
            features=seen,
            progress=step,
        )
    if images:
        out.note(seen.use.sentence())
    about = _about(model, adapter, data, split, method, dataset.fingerprint(split))
    write_evaluation(output, found, about)
    card = found.scorecard
    out.result(
        {**card.model_dump(mode="json"), "about": about, "output": str(output)},
        scorecard_table({split: card}),
        card.notice,
        f"Wrote {output}",
    )


def _about(
    model: str, adapter: Path | None, data: Path, split: str, method: str, fingerprint: str
) -> dict[str, Any]:
    """What was evaluated and how, for scorecard.json."""
    from mlx_medlora import __version__

    return {
        "model": model,
        "adapter": None if adapter is None else str(adapter),
        "data": str(data),
        "split": split,
        "split_sha256": fingerprint,
        "method": method,
        "mlx_medlora": __version__,
    }
