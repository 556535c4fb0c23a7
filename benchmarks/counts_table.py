"""Print the tables of docs/plan.md and the analytic counts of docs/performance.md: derived, not measured."""

from __future__ import annotations

from mlx_medlora.features.size import features_bytes
from mlx_medlora.gemma.config import ModelConfig, Quantization
from mlx_medlora.gemma.geometry import GEOMETRIES
from mlx_medlora.gemma.weightsize import weight_bytes
from mlx_medlora.training.choose import choose, usable
from mlx_medlora.training.lengths import Lengths
from mlx_medlora.training.plan import GB, make_plan
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import RowShape, adapter_shape
from mlx_medlora.training.work import row_work

CARD = TrainSettings()
ROW = RowShape(400, 8, 1)
MACS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
CORES = {  # GPU cores of the largest model; clock in GHz as published by others
    "M1": (8, 1.28),
    "M1 Max": (32, 1.30),
    "M2": (10, 1.40),
    "M2 Ultra": (76, 1.40),
    "M3 Max": (40, 1.38),
    "M3 Ultra": (80, 1.38),
    "M4": (10, 1.47),
    "M4 Pro": (20, 1.58),
    "M4 Max": (40, 1.58),
}
MODELS = {"4B": GEOMETRIES["medgemma-4b"], "27B": GEOMETRIES["medgemma-27b"]}


def lengths(rows: int) -> Lengths:
    return Lengths(train=(ROW,) * rows, val=(), images=rows, tokenised=rows)


def counts() -> None:
    print("| one row: 400 tokens, one image, rank 16 on q, v, o | 4B | 27B |\n|---|---|---|")
    found = {}
    for name, config in MODELS.items():
        adapter = adapter_shape(config, CARD)
        work = row_work(config, adapter, ROW, checkpointing=True)
        whole = row_work(config, adapter, RowShape(400, 400, 1), checkpointing=False)
        memory = make_plan(config, TrainSettings(batch_size=1), lengths(1)).memory
        packed = config.model_copy(update={"quantization": Quantization(bits=4)})
        found[name] = {
            "tower and projector, forward (once an image)": tera(work.tower),
            "frozen matrices, forward": tera(work.forward),
            "frozen matrices, backward": tera(work.backward),
            "attention scores and values, both ways": tera(work.attention),
            "LoRA, both ways": tera(work.lora),
            "head at 8 supervised tokens, both ways": tera(work.head),
            "**a cached row**": f"**{tera(work.epoch - work.recomputed)}**",
            "head at all 400 tokens, both ways": tera(whole.head),
            "checkpointing adds": tera(work.recomputed),
            "weights read a pass, bf16": giga(weight_bytes(config).text),
            "weights read a pass, 4 bits": giga(weight_bytes(packed).text),
            "activations kept, bf16": giga(memory.activations),
            "features of an image, bf16": f"{features_bytes(config, 1) / 2**20:.2f} MiB",
            "fp32 logits of 8 tokens": f"{8 * 4 * config.text.vocab_size / 2**20:.0f} MiB",
            "fp32 logits of 400 tokens": f"{400 * 4 * config.text.vocab_size / 2**20:.0f} MiB",
            "trained parameters": f"{adapter.parameters / 1e6:.2f} million",
        }
    for part in found["4B"]:
        print(f"| {part} | {found['4B'][part]} | {found['27B'][part]} |")


def macs() -> None:
    print("\n| Mac | for training | 4B | peak | 27B | peak |\n|---|---|---|---|---|---|")
    for memory in MACS:
        room = usable(memory * GB)
        cells = [cell(config, room) for config in MODELS.values()]
        print(f"| {memory} GB | {room / GB:.1f} GB | {' | '.join(cells)} |")


def cell(config: ModelConfig, room: float) -> str:
    found = choose(config, CARD, lengths(1000), room)
    if found is None:
        return "nothing fits | "
    bits = "bf16" if found.bits is None else f"{found.bits} bits"
    batch = f"{found.settings.batch_size} x {found.settings.accumulate}"
    return f"{bits}, {batch}{', checkpointing' if found.checkpointing else ''} | {found.peak / GB:.1f} GB"


def times() -> None:
    print("\n| chip | fp32 rate | 4B | 27B |\n|---|---|---|---|")
    for chip, (cores, clock) in CORES.items():
        rate = cores * 128 * 2 * clock * 1e9
        runs = [make_plan(config, CARD, lengths(1000), rate=rate).seconds for config in MODELS.values()]
        shown = " | ".join(f"{one.run / 3600:.1f} h" for one in runs if one is not None)
        print(f"| {chip}, {cores} cores | {rate / 1e12:.1f} TFLOP/s | {shown} |")


def tera(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP"


def giga(count: float) -> str:
    return f"{count / GB:.2f} GB"


if __name__ == "__main__":
    counts()
    macs()
    times()
