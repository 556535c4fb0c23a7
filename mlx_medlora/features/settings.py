"""Where image features are kept. No part of a recipe: whatever stands here, the same adapter comes out."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mlx_medlora.settings import StrictModel

FOLDER = ".features"  # the store's name in a dataset directory


class FeatureSettings(StrictModel):
    """The store's place and size."""

    directory: Path | None = Field(
        None, description="Where image features are kept and found again; DATA/.features if not given."
    )
    limit: float = Field(
        50.0, gt=0, description="Most gigabytes (10^9 bytes) kept there; the least recently used go first."
    )
    memory: bool = Field(False, description="Keep image features in memory only, for this run alone.")

    def place(self, data: Path) -> Path:
        """The store's directory for the dataset directory `data`."""
        return self.directory or data / FOLDER
