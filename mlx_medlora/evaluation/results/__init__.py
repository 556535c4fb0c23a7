"""What an evaluation writes and a page reads: plain data, no model and no arithmetic behind it."""

from mlx_medlora.evaluation.results.calibration import AppliedPoint, Bin, Calibration, OperatingPoint
from mlx_medlora.evaluation.results.comparison import Comparison, Paired, RunSummary
from mlx_medlora.evaluation.results.dependence import Dependence, OcclusionPicture
from mlx_medlora.evaluation.results.gates import GateReport, GateResult, Verdict
from mlx_medlora.evaluation.results.health import Finding, Forgetting, Health, QuestionDrift
from mlx_medlora.evaluation.results.measures import Confusion, Measure, Scores
from mlx_medlora.evaluation.results.predictions import Prediction
from mlx_medlora.evaluation.results.scorecard import NOTICE, Misses, MissRow, SampleSize, Scorecard
from mlx_medlora.evaluation.results.suite import Baseline, Heatmaps, Suite

__all__ = [
    "NOTICE",
    "AppliedPoint",
    "Baseline",
    "Bin",
    "Calibration",
    "Comparison",
    "Confusion",
    "Dependence",
    "Finding",
    "Forgetting",
    "GateReport",
    "GateResult",
    "Health",
    "Heatmaps",
    "Measure",
    "MissRow",
    "Misses",
    "OcclusionPicture",
    "OperatingPoint",
    "Paired",
    "Prediction",
    "QuestionDrift",
    "RunSummary",
    "SampleSize",
    "Scorecard",
    "Scores",
    "Suite",
    "Verdict",
]
