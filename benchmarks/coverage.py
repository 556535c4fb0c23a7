"""How often each 95 % interval holds the truth, on simulated answers: nominal is 95 %.

    python benchmarks/coverage.py                       # minutes: 100 sets of cases a setting
    python benchmarks/coverage.py --quick               # two sets: only to see that it runs
    python benchmarks/coverage.py --part shares --sets 500

Log-odds of ERROR are normal around +d for errors and -d for valid treatments; in sets of K patients half of
their variance is the patient's. A share's patients have each their own rate, drawn from a beta distribution
of the correlation r. Truths are in closed form or from 400,000 cases. `none` counts sets without interval.
With 100 sets a coverage of 95 % is seen as 91 to 99 %, with 1,000 as 93.6 to 96.4.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

import mlx_medlora  # noqa: F401  (loads the fast BLAS, as every command does)
from mlx_medlora.evaluation.calibration import reliability
from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.forgetting import summed
from mlx_medlora.evaluation.measures import scores
from mlx_medlora.evaluation.misses import misses
from mlx_medlora.evaluation.results import Measure, Prediction, QuestionDrift
from mlx_medlora.evaluation.tally import Tally

FIGURES = ("accuracy", "balanced_accuracy", "ppv", "f1", "mcc", "auroc", "auprc", "brier")
SEVERITIES = ("critical", "high", "moderate", "low")
Draw = Callable[[np.random.Generator], dict[str, Measure]]
Setting = tuple[str, Draw, dict[str, float]]  # in words, one set's figures, the truth of each


def answers(rng: np.random.Generator, n: int, d: float, patients: int | None) -> Tally:
    """Scored answers of `n` cases; with `patients`, as many cases of each."""
    error = rng.random(n) < 0.5
    z, patient = rng.normal(size=n), np.arange(n)
    if patients:
        patient = np.repeat(np.arange(patients), n // patients)
        shared = rng.normal(size=patients)[patient] * np.where(error, 1, -1)
        z = np.sqrt(0.5) * z + np.sqrt(0.5) * shared
    p = 1 / (1 + np.exp(-3 * (np.where(error, d, -d) + z)))
    return Tally(error, np.where(p >= 0.5, 0, 1), p, patient)


def figures(tally: Tally) -> dict[str, Measure]:
    """Every figure with an interval."""
    calibration = reliability(tally)
    assert calibration is not None
    return {**scores(tally).measures, "brier": calibration.brier}


@cache
def true_figures(d: float) -> dict[str, float]:
    """Of 400,000 cases."""
    from sklearn import metrics as sk

    tally = answers(np.random.default_rng(1), 400_000, d, None)
    assert tally.p is not None
    flagged, right = tally.said == 0, (tally.said == 0) == tally.error
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(right.mean()),
        "ppv": float(tally.error[flagged].mean()),
        "f1": float(sk.f1_score(tally.error, flagged)),
        "mcc": float(sk.matthews_corrcoef(tally.error, flagged)),
        "auroc": float(sk.roc_auc_score(tally.error, tally.p)),
        "auprc": float(sk.average_precision_score(tally.error, tally.p)),
        "brier": float(((tally.p - tally.error) ** 2).mean()),
    }


def scored() -> Iterator[Setting]:
    for d in (0.7, 1.3, 2.0):
        for n, patients in ((20, None), (30, None), (100, None), (120, 30), (400, 100)):
            name = (
                f"d {d}, {n} cases" if patients is None else f"d {d}, {patients} patients x {n // patients}"
            )
            yield name, lambda rng, n=n, d=d, k=patients: figures(answers(rng, n, d, k)), true_figures(d)


SIZES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "12 x 4": lambda rng: np.full(12, 4),
    "30 x 4": lambda rng: np.full(30, 4),
    "100 x 4": lambda rng: np.full(100, 4),
    "9 of 1, one of 60": lambda rng: np.r_[np.ones(9, int), 60],
    "18 of 1, one of 100": lambda rng: np.r_[np.ones(18, int), 100],
    "29 of 1, one of 100": lambda rng: np.r_[np.ones(29, int), 100],
    "15 geometric, mean 4": lambda rng: rng.geometric(0.25, 15),
    "30 geometric, mean 4": lambda rng: rng.geometric(0.25, 30),
    "60 geometric, mean 4": lambda rng: rng.geometric(0.25, 60),
    "100 geometric, mean 4": lambda rng: rng.geometric(0.25, 100),
}


def of_patients(
    rng: np.random.Generator, sizes: Callable[[np.random.Generator], np.ndarray], p: float, r: float
) -> dict[str, Measure]:
    """A share over patients whose own rates vary."""
    size = sizes(rng)
    rates = rng.beta(p * (1 / r - 1), (1 - p) * (1 / r - 1), len(size))
    patient = np.repeat(np.arange(len(size)), size)
    return {"share": share("share", "", rng.random(len(patient)) < rates[patient], patient)}


def shares() -> Iterator[Setting]:
    for name, sizes in SIZES.items():
        for p in (0.8, 0.9, 0.95):
            for r in (0.1, 0.5):
                yield (
                    f"share {p:g}, {name}, r {r:g}",
                    lambda rng, sizes=sizes, p=p, r=r: of_patients(rng, sizes, p, r),
                    {"share": p},
                )


def missed(rng: np.random.Generator, n: int, p: float) -> dict[str, Measure]:
    """The weighted miss rate of `n` errors of equally frequent severities, each missed with chance `p`."""
    rows = []
    for number, severity in enumerate(rng.choice(SEVERITIES, n)):
        said = "CORRECT" if rng.random() < p else "ERROR"
        rows.append(
            Prediction.model_construct(
                id=str(number),
                modality="xray",
                label="ERROR",
                predicted=said,
                correct=said == "ERROR",
                method="generate",
                p_error=None,
                text=said,
                patient_id=None,
                error_type="overtreatment",
                severity=str(severity),
                image_paths=(),
            )
        )
    return {"weighted_miss_rate": misses(rows).weighted}


def weighted() -> Iterator[Setting]:
    for p in (0.02, 0.05, 0.1, 0.2):
        for n in (20, 30, 50, 100):
            yield (
                f"{n} errors, {p:g} missed",
                lambda rng, n=n, p=p: missed(rng, n, p),
                {"weighted_miss_rate": p},
            )


def forgotten(rng: np.random.Generator, n: int, sigma: float) -> dict[str, Measure]:
    """KL of `n` questions, log-normal, by token."""
    tokens, kl = rng.integers(10, 30, n), np.exp(rng.normal(0, sigma, n))
    tuned = 1 + rng.normal(0.1, 0.3, n)
    rows = [
        QuestionDrift(
            line=line,
            tokens=int(tokens[line]),
            kl=float(kl[line]),
            loss_base=1.0,
            loss_tuned=float(tuned[line]),
        )
        for line in range(n)
    ]
    found = summed(rows, "", 100)
    return {"kl": found.kl, "loss_change": found.loss_change}


def questions() -> Iterator[Setting]:
    for n in (40, 100):
        for sigma in (0.4, 0.8, 1.2):
            truth = {"kl": float(np.exp(sigma**2 / 2)), "loss_change": 0.1}
            yield (
                f"{n} questions, KL log-normal {sigma:g}",
                lambda rng, n=n, s=sigma: forgotten(rng, n, s),
                truth,
            )


PARTS = {"scored": scored, "shares": shares, "weighted": weighted, "questions": questions}


def held(draw: Draw, truth: dict[str, float], sets: int, seed: int) -> dict[str, tuple[float, int]]:
    """Of each figure, the share of sets whose interval holds the truth, and how many sets had none."""
    rng = np.random.default_rng(seed)
    inside, none = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(sets):
        found = draw(rng)
        for name, value in truth.items():
            interval = found[name].interval
            if interval is None:
                none[name] += 1
            else:
                inside[name] += interval[0] <= value <= interval[1]
    return {name: (inside[name] / max(1, sets - none[name]), none[name]) for name in truth}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument(
        "--part", choices=tuple(PARTS), action="append", help="only this part; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two sets")
    given = parser.parse_args()
    sets = 2 if given.quick else given.sets
    for part in given.part or PARTS:
        for name, draw, truth in PARTS[part]():
            found = held(draw, truth, sets, given.seed)
            told = ", ".join(
                f"{figure} {100 * share:.1f}" + (f" (none {none})" if none else "")
                for figure, (share, none) in found.items()
            )
            print(f"{name}: {told}", flush=True)


if __name__ == "__main__":
    main()
