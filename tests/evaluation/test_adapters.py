from pathlib import Path

from mlx_medlora.evaluation.adapters import WEIGHTS, digest
from mlx_medlora.files import sha256
from mlx_medlora.lora import adapter, peft

REFERENCE = Path(__file__).resolve().parents[2] / "adapters"


def test_an_adapter_of_either_form_is_told_by_its_weights(tmp_path: Path) -> None:
    assert WEIGHTS == (adapter.WEIGHTS, peft.WEIGHTS)
    for name, file in zip(("reference", "reference-peft"), WEIGHTS, strict=True):
        assert digest(REFERENCE / name) == sha256(REFERENCE / name / file)
    assert digest(tmp_path) is None
