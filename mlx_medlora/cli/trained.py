"""What `train` says of a run at its end, and of a dry one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlx_medlora.training.dry_run import DryRun
    from mlx_medlora.training.record import RunRecord


def summary(record: RunRecord) -> str:
    """What was kept of a finished run, in a sentence."""
    from mlx_medlora.training.log import accuracy

    by = f"by {record.best_by}" if record.best_by == "validation loss" else record.best_by
    kept = f"Kept epoch {record.best_epoch} ({by})" if record.best_epoch else "Kept the last state"
    if record.val_loss is None:
        return f"{kept}; {record.updates} updates in {record.seconds:.0f} s."
    figures = f"validation loss {record.val_loss:.4f}"
    if record.val_accuracy is not None:
        figures += f", {accuracy(record.val_accuracy, record.val_accuracy_interval)}"
    before = record.before or {}
    if before.get("val_loss") is not None:
        figures += f"; before training: {before['val_loss']:.4f}"
        if before.get("val_accuracy") is not None:
            figures += f", {accuracy(before['val_accuracy'], before.get('val_accuracy_interval'))}"
    return f"{kept}: {figures}; {record.updates} updates in {record.seconds:.0f} s."


def rehearsal(seen: DryRun) -> list[RenderableType]:
    """What one step came to, then one row with its supervised tokens marked and listed."""
    from rich.table import Table
    from rich.text import Text

    row = Text()
    for token in seen.tokens:
        text = token.text if token.count == 1 else f"{token.text} x {token.count}"
        row.append(text, style="bold reverse" if token.supervised else "dim")
    table = Table()
    table.add_column("id", justify="right")
    table.add_column("token")
    for token in seen.tokens:
        if token.supervised:
            table.add_row(str(token.id), Text(repr(token.text)))
    replayed = f" ({seen.replay_rows} of them replayed)" if seen.replay_rows else ""
    return [
        f"{seen.train_rows} rows to train on{replayed}, {seen.val_rows} to validate, "
        f"up to {seen.longest_row} tokens",
        f"{seen.modules} layers adapted, {seen.trainable_parameters:,} parameters, {seen.updates} updates",
        f"one update: loss {seen.loss:.4f}, gradient norm {seen.gradient_norm:.4f}, {seen.seconds:.2f} s, "
        f"peak memory {seen.peak_memory / 2**30:.2f} GiB",
        f"\n{seen.where}, as the model reads it; the loss is taken on what the table lists:\n",
        row,
        table,
        "Dry run: nothing was written.",
    ]
