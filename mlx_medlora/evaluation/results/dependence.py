"""`dependence.json`: whether a model's accuracy comes from the image."""

from __future__ import annotations

from pydantic import Field

from mlx_medlora.evaluation.results.measures import Measure
from mlx_medlora.settings import StrictModel


class OcclusionPicture(StrictModel):
    """A picture of which parts of a case's image move the answer; `path` is relative to the run."""

    id: str
    path: str


class Dependence(StrictModel):
    """`verdict` in a few words, `sentences` for people, the most important first.

    `looks`: the accuracy comes from the image; False where it does not, None where these cases cannot tell
    or where it is `hardly`: the image's share is shown to be there and shown to be small.
    `shortcut`: the text alone gives the answer away, to this model or to a count of its words.
    """

    verdict: str
    sentences: list[str]
    figures: list[Measure]
    looks: bool | None
    shortcut: bool | None
    hardly: bool = False
    occlusion: list[OcclusionPicture] = Field(default_factory=list)
