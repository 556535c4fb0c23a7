"""Build the embedded default model from nothing.

    python scripts/tiny_medgemma OUTPUT

Draws phantoms, learns a tokenizer, trains the vision tower, then the text stack, and writes a Gemma 3
checkpoint. The same machine and seed give the same model.
"""

import argparse
import shutil
from pathlib import Path

import mlx_medlora  # noqa: F401  (before MLX: it loads the fast BLAS)

# isort: split
import mlx.core as mx
import vocabulary
from lessons import corpus
from mlx.utils import tree_flatten

from mlx_medlora.atomic import atomic_directory
from mlx_medlora.files import write_json
from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig, published_config
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder, load_processor

PIECES = 1200


def geometry(ids: vocabulary.Ids) -> ModelConfig:
    """Gemma 3's shape at 1.6 million parameters; one global layer in six, and every prompt in the window."""
    text = TextConfig(
        vocab_size=ids.vocabulary,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=2048,
        sliding_window=512,
        layer_types=("sliding_attention",) * 5 + ("full_attention",),
    )
    vision = VisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=vocabulary.SIDE,
        patch_size=14,
    )
    return ModelConfig(
        text=text,
        vision=vision,
        mm_tokens_per_image=vocabulary.SOFT_TOKENS,
        image_token_id=ids.soft_token,
        boi_token_id=ids.start_of_image,
        eoi_token_id=ids.end_of_image,
        dtype="float32",
    )


def fresh(config: ModelConfig, seed: int) -> Gemma3:
    """An untrained model whose embeddings, once scaled, have unit size."""
    mx.random.seed(seed)
    model = Gemma3(config)
    width = config.text.hidden_size
    shape = model.text.embed_tokens.weight.shape
    model.text.embed_tokens.weight = mx.random.normal(shape) * width**-0.5
    model.multi_modal_projector.mm_input_projection_weight *= 5.0
    positions = model.vision_tower.vision_model.embeddings.position_embedding
    positions.weight = mx.random.normal(positions.weight.shape) * 0.2
    mx.eval(model.parameters())
    return model


def save(model: Gemma3, directory: Path) -> None:
    """Write the weights in the hub's layout: patch embedding (O, C, H, W), no head."""
    tensors = dict(tree_flatten(model.parameters()))
    name = "vision_tower.vision_model.embeddings.patch_embedding.weight"
    tensors[name] = mx.contiguous(tensors[name].transpose(0, 3, 1, 2))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})


def write_files(directory: Path) -> ModelConfig:
    """Tokenizer, processor, configuration: everything but the weights."""
    tokenizer, ids = vocabulary.learn(corpus(), PIECES)
    vocabulary.write(tokenizer, directory)
    config = geometry(ids)
    write_json(directory / "config.json", published_config(config))
    generation = {"bos_token_id": 2, "do_sample": False, "eos_token_id": [1, 106], "pad_token_id": 0}
    write_json(directory / "generation_config.json", generation)
    shutil.copyfile(Path(__file__).with_name("MODEL_CARD.md"), directory / "README.md")
    return config


def train(model: Gemma3, encoder: Encoder, arguments: argparse.Namespace) -> dict[str, float]:
    """Both stages; returns the shares of held-out questions answered right."""
    from stack import Classroom, train_stack
    from tower import paint, train_tower

    seed = arguments.seed
    tower = train_tower(model, encoder, arguments.tower_steps, arguments.images, seed)
    room = Classroom(model, encoder, paint(arguments.images, seed, encoder), seed)
    unseen = Classroom(model, encoder, paint(1000, seed + 1, encoder), seed + 1)
    steps = (arguments.first_steps, arguments.second_steps)
    return {"tower": tower} | train_stack(model, room, unseen, steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/tiny_medgemma", description=__doc__)
    parser.add_argument("output", type=Path, help="directory to write; must not exist yet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=8000, help="phantoms to learn from")
    parser.add_argument("--tower-steps", type=int, default=1500)
    parser.add_argument("--first-steps", type=int, default=500)
    parser.add_argument("--second-steps", type=int, default=1000)
    arguments = parser.parse_args()
    with atomic_directory(arguments.output) as directory:
        config = write_files(directory)
        model = fresh(config, arguments.seed)
        save(model, directory)
        results = train(model, Encoder(load_processor(directory), config), arguments)
        save(model, directory)
        write_json(
            directory / "training.json", {"settings": vars(arguments) | {"output": None}, "held_out": results}
        )


if __name__ == "__main__":
    main()
