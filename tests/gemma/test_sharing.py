from __future__ import annotations

import numpy as np
import pytest

from mlx_medlora.gemma.sharing import Batch, Prompt, common, plan, stems

SOFT = 300
IMAGE = [301, *[SOFT] * 4, 302]


def prompt(*ids: int, images: tuple[str, ...] | None = ()) -> Prompt:
    return Prompt(np.array(ids, np.int32), images=images)


def text(length: int, first: int = 5) -> Prompt:
    return prompt(*range(first, first + length))


def shown(image: str, tail: int, begin: int = 9) -> Prompt:
    return prompt(2, 3, *IMAGE, *range(begin, begin + tail), images=(image,))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(2, 3, 4), (2, 3, 5)], 2),
        ([(2, 3, 4), (2, 3)], 1),  # each keeps a token of its own
        ([(2, 3, 4), (2, 3, 4)], 2),
        ([(2, 3, 301, SOFT, SOFT, 302, 8), (2, 3, 301, SOFT, SOFT, 302, 8)], 3),  # before the image
        ([(4, 3), (5, 3)], 0),
        ([(7, 8, 9)], 2),
    ],
)
def test_common_tokens_end_before_an_image(rows: list[tuple[int, ...]], expected: int) -> None:
    assert common([prompt(*row) for row in rows], SOFT) == expected


def test_stems_are_told_apart_by_tokens_and_images() -> None:
    rows = [shown("a", 3), shown("b", 3), shown("a", 5), shown("a", 3, begin=40)]
    assert stems(rows, 8) == ([0, 1], [0, 1, 0, 0])
    assert stems(rows, 9) == ([0, 1, 3], [0, 1, 0, 2])
    unknown = [prompt(*row.ids.tolist(), images=None) for row in rows]
    assert stems(unknown, 8) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_prompts_of_like_length_come_together_within_the_limits() -> None:
    lengths = [5, 30, 6, 29, 7, 31, 200]
    prompts = [text(length, 5 * number) for number, length in enumerate(lengths)]
    found = plan(prompts, SOFT, tokens=64)
    assert found == [Batch([0, 2, 4]), Batch([3, 1]), Batch([5]), Batch([6])]
    assert plan(prompts, SOFT, tokens=64, rows=2)[0] == Batch([0, 2])
    assert plan(prompts, SOFT, header=4, tokens=64)[1] == Batch([3, 1])
    assert [len(batch.rows) for batch in plan(prompts, SOFT, tokens=10**9)] == [7]


def test_prompts_of_the_same_images_come_together_where_that_is_less_work() -> None:
    prompts = [shown(image, tail) for image, tail in zip("abcab", (4, 5, 6, 7, 4), strict=True)]
    whole, shared = plan(prompts, SOFT, header=2, tokens=1000)
    assert whole == Batch([2])
    assert sorted(shared.rows) == [0, 1, 3, 4]
    assert shared.stem == 8 + 3  # the image's end, and what all of them say next; one token is each one's own
    far = [shown(image, tail) for image, tail in (("a", 1), ("a", 400), ("b", 1), ("b", 400))]
    assert plan(far, SOFT, tokens=1000) == [Batch([0, 2]), Batch([1, 3])]


def test_a_group_too_large_for_one_batch_is_divided() -> None:
    found = plan([shown("a", 5) for _ in range(7)], SOFT, tokens=1000, rows=3)
    assert sorted(row for batch in found for row in batch.rows) == list(range(7))
    assert all(len(batch.rows) <= 3 and batch.stem for batch in found)


def test_every_prompt_is_planned_once() -> None:
    rng = np.random.default_rng(0)
    prompts = [shown(str(rng.integers(9)), int(rng.integers(1, 60))) for _ in range(80)] + [text(9), text(40)]
    found = plan(prompts, SOFT, header=2, tokens=500, rows=9)
    assert sorted(row for batch in found for row in batch.rows) == list(range(82))
