from collections.abc import Callable

import numpy as np
import pytest

from mlx_medlora.evaluation.threshold import candidates, choose_threshold


def reached(error: np.ndarray, p: np.ndarray, threshold: float) -> tuple[float, float]:
    """(sensitivity, false-flag rate)."""
    return float((p[error] >= threshold).mean()), float((p[~error] >= threshold).mean())


def test_by_hand() -> None:
    error = np.array([True, True, True, False, False, False, False, False])
    p = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.2, 0.1])
    # one of five valid treatments may be flagged: 0.7 is; two errors lie above 0.4
    found = choose_threshold(error, p, "max-false-flag", 0.2)
    assert 0.4 < found <= 0.6
    assert reached(error, p, found) == (pytest.approx(2 / 3), pytest.approx(0.2))
    none = choose_threshold(error, p, "max-false-flag", 0.0)
    assert 0.7 < none <= 0.9
    every = choose_threshold(error, p, "min-sensitivity", 1.0)
    assert 0.2 < every <= 0.3
    assert reached(error, p, every) == (1.0, pytest.approx(0.4))


def test_where_classes_part_it_lies_between_them() -> None:
    error = np.array([True, True, False, False])
    p = np.array([0.99, 0.8, 0.2, 0.01])
    for rule, limit in (("max-false-flag", 0.5), ("min-sensitivity", 0.5), ("min-sensitivity", 1.0)):
        found = choose_threshold(error, p, rule, limit)  # type: ignore[arg-type]
        assert reached(error, p, found)[1] == 0.0
    assert choose_threshold(error, p, "max-false-flag", 0.5) == pytest.approx(0.5)  # halfway in log-odds


@pytest.mark.parametrize("rule", ["max-false-flag", "min-sensitivity"])
@pytest.mark.parametrize("limit", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_against_every_threshold_there_is(rule: str, limit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    error = np.r_[True, False, rng.random(60) < 0.4]
    p = np.round(np.clip(rng.normal(np.where(error, 0.6, 0.4), 0.3), 0, 1), 1)  # many ties, and 0 and 1
    found = reached(error, p, choose_threshold(error, p, rule, limit))  # type: ignore[arg-type]
    every = [reached(error, p, threshold) for threshold in (*np.unique(p), 2.0)]
    if rule == "max-false-flag":
        best = max((s, -f) for s, f in every if f <= limit + 1e-12)
        assert (found[0], -found[1]) == pytest.approx(best)
    else:
        best = max((-f, s) for s, f in every if s >= limit - 1e-12)
        assert (-found[1], found[0]) == pytest.approx(best)


@pytest.mark.parametrize("seen", [[0.5], [0.0, 1.0], [0.0, 1e-300, 1.0], [1 - 2**-53, 1.0], [0.2, 0.2, 0.9]])
def test_candidates_flag_every_set_from_all_to_none(seen: list[float]) -> None:
    p = np.array(seen)
    flagged = [int((p >= mark).sum()) for mark in candidates(p)]
    assert flagged[0] == len(p)
    assert flagged[-1] == 0
    assert sorted(set(flagged), reverse=True) == flagged
    assert len(flagged) == len(np.unique(p)) + 1


@pytest.mark.parametrize("error", [[True, True], [False, False]])
def test_one_class_is_refused(error: list[bool]) -> None:
    choose: Callable[..., float] = choose_threshold
    with pytest.raises(ValueError, match="either right answer"):
        choose(np.array(error), np.array([0.2, 0.8]), "max-false-flag", 0.1)
