"""Do other releases of transformers read what `export` writes? Each is tried in an environment of its own.

    python scripts/check_older_transformers.py 4.57.6
    python scripts/check_older_transformers.py 4.51.3 --before-4.52

Makes an adapter with noise on every linear layer of the embedded model, SigLIP's included, exports it, and
compares that release's logits with those here. Exits 1 where they are further apart than 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CHILD = """
import sys, numpy as np, peft, torch, transformers
base, adapter, arrays = sys.argv[1:]
given = np.load(arrays)
model = transformers.Gemma3ForConditionalGeneration.from_pretrained(
    base, torch_dtype=torch.float32, attn_implementation="eager")
model = peft.PeftModel.from_pretrained(model, adapter).eval()
names = ("input_ids", "pixel_values", "token_type_ids")
with torch.no_grad():
    found = model(**{name: torch.tensor(given[name]) for name in names}).logits.numpy()
wanted = given["logits"]
gap = float(np.abs(found - wanted).max() / np.abs(wanted).max())
print(f"transformers {transformers.__version__}, peft {peft.__version__}: {gap:.1e} of the largest logit")
sys.exit(gap > 1e-5)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release")
    parser.add_argument("--peft", default="peft>=0.17,<0.18")
    parser.add_argument("--torch", default="torch==2.13.0")
    parser.add_argument("--before-4.52", action="store_true", dest="before")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        base = make(place, before=chosen.before)
        venv.create(place / "env", with_pip=True)
        python = place / "env" / "bin" / "python"
        install = [f"transformers=={chosen.release}", chosen.peft, chosen.torch, "numpy"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *install], check=True)
        child = [python, "-c", CHILD, str(base), str(place / "peft"), str(place / "arrays.npz")]
        return subprocess.run(child, check=False).returncode


def make(place: Path, *, before: bool) -> Path:
    """Write an exported adapter and our logits with it under `place`; return the base's directory."""
    import mlx.core as mx
    import numpy as np
    from mlx.utils import tree_flatten

    from mlx_medlora.cases.phantoms import draw
    from mlx_medlora.gemma.fingerprint import fingerprint
    from mlx_medlora.gemma.hub import EMBEDDED, resolve
    from mlx_medlora.gemma.processor import Encoder, load_processor
    from mlx_medlora.lora.adapter import BaseModelId, save_adapter
    from mlx_medlora.lora.exchange import export_adapter
    from mlx_medlora.lora.layers import attach
    from mlx_medlora.lora.load import load_model
    from mlx_medlora.lora.settings import LoraSettings

    base, settings = resolve(EMBEDDED), LoraSettings(rank=4, target=("all-linear",))
    model = load_model(base)
    attach(model, settings)
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * 0.05
        model.load_weights([(name, array + noise)], strict=False)
    model.eval()
    (place / "native").mkdir()
    save_adapter(place / "native", model, settings, BaseModelId(id=EMBEDDED, fingerprint=fingerprint(base)))
    export_adapter(place / "native", place / "peft", before_4_52=before)
    encoder = Encoder(load_processor(base), model.config)
    image = draw("mri", True, np.random.default_rng(0)).convert("RGB")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}]
    ids = encoder.encode(turns, [image], with_answer=False).ids[None].astype(np.int64)
    types = (ids == model.config.image_token_id).astype(np.int64)
    pixels = encoder.pixels([image])
    logits = np.array(model(mx.array(ids), mx.array(pixels), token_type_ids=mx.array(types)))
    np.savez(place / "arrays.npz", input_ids=ids, pixel_values=pixels, token_type_ids=types, logits=logits)
    return base


if __name__ == "__main__":
    sys.exit(main())
