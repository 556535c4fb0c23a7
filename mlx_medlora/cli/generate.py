"""`generate`: one prompt, with or without images, one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_medlora.cli.options import (
    Adapter,
    IgnorePoint,
    Json,
    Model,
    Offline,
    VerboseCases,
    Verify,
    examples,
    verify_model,
)
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError

EXAMPLES = examples(
    'mlx-medlora generate --model models/medgemma-4b --image chest.png --prompt "Describe this X-ray."',
    'mlx-medlora generate --model models/medgemma-4b --adapter adapters/first --prompt "..." --max-tokens 64',
    'mlx-medlora generate --model models/medgemma-4b --adapter adapters/first --prompt "..." '
    "--ignore-operating-point",
    "mlx-medlora generate --model models/medgemma-4b --adapter adapters/first --image chest.png "
    '--system "You check treatments against images. ..." --prompt "Patient: ..."',
    'mlx-medlora generate --model tiny-medgemma --image a.png --image b.png --prompt "What has changed?"',
    'mlx-medlora generate --model /volumes/usb/medgemma-4b --image chest.png --prompt "..." --verify',
)

_COLDEST = 1e-4  # below it logits / temperature may leave fp32; all that is left is the likeliest token


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("generate", epilog=EXAMPLES)(generate)


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="What to ask; `-` reads it from stdin.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="An image file; may be given several times.", metavar="FILE")
    ] = None,
    adapter: Adapter = None,
    system: Annotated[str, typer.Option(help="Instruction put before the prompt.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="0: always the likeliest token.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="Of the sampling, where --temperature is above 0.")
    ] = 0,
    ignore_operating_point: IgnorePoint = False,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    verify: Verify = False,
    json: Json = False,
) -> None:
    """Answer one prompt about any number of images. Research tool, not a medical device.

    Ask in the form that was trained, for another one can reverse the answer: of a case of a dataset, its
    instruction as --system, its input as --prompt.

    Where the adapter has an operating point and the answer begins with ERROR or CORRECT, the calibrated
    probability of ERROR and the verdict by its threshold follow the answer. The text stays as written.
    """
    out.use_json(json)
    from mlx_medlora.evaluation.answers import parse_answer
    from mlx_medlora.evaluation.operating_point import OTHER_FORM, judge_one, read_point
    from mlx_medlora.evaluation.single import answer_one
    from mlx_medlora.gemma.fingerprint import fingerprint
    from mlx_medlora.gemma.hub import resolve
    from mlx_medlora.gemma.processor import Encoder
    from mlx_medlora.lora.load import load

    text, system = _text(prompt, "--prompt"), _text(system, "--system")
    verify_model(model, verify)
    point = None if adapter is None or ignore_operating_point else read_point(adapter)
    network, processor = load(model, adapter)
    answer = answer_one(
        network,
        Encoder(processor, network.config),
        text,
        images=image or [],
        system=system,
        max_tokens=max_tokens,
        temperature=temperature if temperature >= _COLDEST else 0.0,
        seed=seed,
        verdict=point is not None,
    )
    said = {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished}
    judged = None if point is None or answer.p_error is None else judge_one(point, answer.p_error)
    shown = said if judged is None else {**said, "verdict": judged.model_dump(mode="json")}
    out.result(shown, answer.text, *([] if judged is None else [str(judged)]))
    if point is not None and judged is not None and point.model_fingerprint != fingerprint(resolve(model)):
        out.warning(OTHER_FORM)
    if judged is not None and judged.verdict != parse_answer(answer.text):
        out.warning("the answer as written and the verdict by the operating point are not the same")
    if not answer.finished:
        out.warning(f"stopped after {max_tokens} tokens, before the answer ended: raise --max-tokens")


def _text(given: str, flag: str) -> str:
    """A flag's text, or stdin's for `-`. Raises InputError where it is not UTF-8."""
    try:
        text = typer.get_text_stream("stdin").read() if (flag, given) == ("--prompt", "-") else given
        text.encode()
    except UnicodeError as error:
        raise InputError(f"the text of {flag} is not UTF-8", hint="Save or paste it as UTF-8.") from error
    return text
