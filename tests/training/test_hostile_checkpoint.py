"""What a checkpoint of somebody else may hold under the right hashes."""

import pytest

from mlx_medlora.errors import InputError
from mlx_medlora.training import checkpoint


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{oops", b"[]", b"[" * 100_000, b"{}", b'{"mlx": 1}', b'{"mlx": ["a", "b"]}', b"\xff"),
        b'{"mlx": [0, 1], "python": [3, [1], null], "numpy": []}',
        b'{"mlx": [0, 1], "python": [9, [1], null], "numpy": ["MT19937", [1], 1, 0, 0.0]}',
    ],
)
def test_random_states_that_are_none(content):
    kept = checkpoint.random_states()
    try:
        with pytest.raises(InputError, match=r"random\.json: damaged"):
            checkpoint.restore_random(content)
    finally:
        checkpoint.restore_random(kept)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 99, b"\xff" * 99, b"\x80\x04cos\nsystem\n."])
def test_an_adapter_that_is_none(tiny_model, content):
    with pytest.raises(InputError, match=r"adapters\.safetensors: damaged"):
        checkpoint.restore_adapter(tiny_model, content)
