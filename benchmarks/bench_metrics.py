"""Claim: every figure of 5,000 answered cases, intervals included, takes under 5 s.

    python benchmarks/bench_metrics.py
    python benchmarks/bench_metrics.py --quick          # seconds: only to see that it runs

Random answers of four modalities, half of them errors. `alone`: one case a patient, the usual groups.
`repeated`: two cases a patient, and two more fields to group by. Importing scikit-learn is told apart: it
happens once in a process. `plain` draws the same number of resamples of all cases together by a loop over
scikit-learn's functions, 20 of them timed; `ratio` is what its AUROC, average precision and F1 alone take
against the whole scorecard.
"""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

import numpy as np

import mlx_medlora  # noqa: F401  (loads the fast BLAS, as every command does)
from mlx_medlora.evaluation.results import Prediction

GOAL = 5.0  # issue 6
LOOPED = 20


def answers(n: int, cases_a_patient: int, seed: int = 0) -> list[Prediction]:
    """Random scored answers, most of them right."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        error = bool(rng.random() < 0.5)
        p = float(1 / (1 + np.exp(-rng.normal(1.5 if error else -1.5, 1.5))))
        label, said = ("ERROR" if error else "CORRECT"), ("ERROR" if p >= 0.5 else "CORRECT")
        found.append(
            Prediction.model_validate(
                {
                    "id": f"case_{number}",
                    "modality": ("xray", "mri", "ultrasound", "histopathology")[number % 4],
                    "label": label,
                    "predicted": said,
                    "correct": label == said,
                    "method": "score",
                    "p_error": p,
                    "text": None,
                    "patient_id": f"patient_{number // cases_a_patient}",
                    "error_type": ("overtreatment", "undertreatment")[number % 2] if error else "none",
                    "severity": ("critical", "high", "moderate")[number % 3] if error else "none",
                    "image_paths": (),
                    "metadata": {
                        "gender": ("female", "male")[number // 4 % 2],
                        "site": f"site {number % 10}",
                    },
                }
            )
        )
    return found


def plain(predictions: list[Prediction]) -> float:
    """Seconds of one resample by scikit-learn's own functions."""
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    error = np.array([p.label == "ERROR" for p in predictions])
    said = np.array([p.predicted == "ERROR" for p in predictions])
    p = np.array([p.p_error for p in predictions], np.float64)
    rng = np.random.default_rng(0)
    start = perf_counter()
    for _ in range(LOOPED):
        rows = rng.integers(0, len(error), len(error))
        roc_auc_score(error[rows], p[rows])
        average_precision_score(error[rows], p[rows])
        f1_score(error[rows], said[rows])
    return (perf_counter() - start) / LOOPED


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="200 cases, one round")
    given = parser.parse_args()
    cases, rounds = (200, 1) if given.quick else (given.cases, given.rounds)

    start = perf_counter()
    from mlx_medlora.evaluation.bootstrap import RESAMPLES
    from mlx_medlora.evaluation.metrics import score

    print(f"importing: {perf_counter() - start:.2f} s")
    contest = {"alone": (answers(cases, 1), ()), "repeated": (answers(cases, 2), ("gender", "site"))}
    seconds: dict[str, list[float]] = {name: [] for name in contest}
    ratios = []
    for _ in range(rounds):
        for name, (predictions, by) in contest.items():
            start = perf_counter()
            score(predictions, by=by)
            seconds[name].append(perf_counter() - start)
        ratios.append(plain(contest["alone"][0]) * RESAMPLES / seconds["alone"][-1])
    for name, took in seconds.items():
        print(f"{name}: {np.median(took):.2f} s ({min(took):.2f} to {max(took):.2f}) for {cases} cases")
    print(
        f"ratio: plain resampling takes {np.median(ratios):.1f} times as long "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )
    if not given.quick and max(np.median(took) for took in seconds.values()) >= GOAL:
        sys.exit(f"not met: {GOAL:g} s")


if __name__ == "__main__":
    main()
