"""Does the suite pass at both ends of what pyproject.toml allows? Each end gets an environment of its own.

    python scripts/check_dependency_ranges.py oldest
    python scripts/check_dependency_ranges.py newest -- tests/gemma tests/lora -m "not slow"

`oldest` takes the lowest release that pyproject.toml admits of mlx, mlx-lm, transformers and peft, `newest`
the newest that the registry has within the range. All else, torch above all, stays at constraints.txt's
versions, but for what these four bring with them. mlx-vlm asks for newer ones and is left out of `oldest`:
its tests skip. What stands after `--` goes to pytest, by default `-m "not slow"`. Needs Python 3.11 and the
network. The environment goes to a temporary directory, or stays in --keep DIR for another turn. Exits as
pytest does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RANGED = ("mlx", "mlx-lm", "transformers", "peft")
# Released together with one of the four, or held to a range by it.
FOLLOWERS = ("mlx-cpu", "mlx-metal", "tokenizers", "huggingface-hub", "safetensors", "accelerate")
NEEDS_NEWEST = ("mlx-vlm", "mlx-audio")
CONSTRAINTS = "constraints.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("end", choices=("oldest", "newest"))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="Make the environment here, and leave it.")
    parser.add_argument("--only-install", action="store_true", help="Make the environment, run nothing.")
    ours, theirs = split(sys.argv[1:])
    chosen = parser.parse_args(ours)
    with tempfile.TemporaryDirectory() as scratch:
        place = chosen.keep or Path(scratch) / "env"
        python = place / "bin" / "python"
        if not python.exists():
            install(place, python, chosen.end, Path(scratch))
        print_versions(python)
        if chosen.only_install:
            return 0
        command = [python, "-m", "pytest", *(theirs or ["-m", "not slow"])]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what behind it."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def install(place: Path, python: Path, end: str, scratch: Path) -> None:
    """Make the environment with the four at one end, and all else as it is tested."""
    venv.create(place, with_pip=True)
    constraints = scratch / "constraints.txt"
    constraints.write_text(other_constraints(end), encoding="utf-8")
    command = [python, "-m", "pip", "install", "--quiet", "-c", constraints]
    subprocess.run([*command, "torch==2.13.0"], check=True)  # alone: the CPU's build, where there is a choice
    subprocess.run([*command, *wanted(end)], check=True)


def requirements() -> list[Requirement]:
    """All of pyproject.toml's requirements for this platform, extras `parity` and `dev` included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = [Requirement(text) for text in (*project["dependencies"], *extras["parity"], *extras["dev"])]
    return [
        each
        for each in found
        if each.name != project["name"] and (each.marker is None or each.marker.evaluate())
    ]


def wanted(end: str) -> list[str]:
    """What pip is asked for: the four at `end`, all else by its range."""
    asked = []
    for each in requirements():
        if end == "oldest" and canonicalize_name(each.name) in NEEDS_NEWEST:
            continue
        extras = f"[{','.join(each.extras)}]" if each.extras else ""
        if end == "oldest" and each.name in RANGED:
            asked.append(f"{each.name}{extras}=={lowest(each)}")
        else:
            asked.append(f"{each.name}{extras}{each.specifier}")
    return asked


def lowest(requirement: Requirement) -> str:
    """The lower bound, which must be a release that exists."""
    bounds = [each.version for each in requirement.specifier if each.operator in (">=", "==", "~=")]
    if len(bounds) != 1:
        raise SystemExit(f"pyproject.toml gives {requirement.name} no single lower bound: {requirement}")
    return bounds[0]


def other_constraints(end: str) -> str:
    """constraints.txt without the four and what comes with them."""
    free = {*RANGED, *FOLLOWERS, *NEEDS_NEWEST}
    lines = (ROOT / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    return "\n".join(line for line in kept if canonicalize_name(Requirement(line).name) not in free) + "\n"


def print_versions(python: Path) -> None:
    code = f"from importlib.metadata import version as v; print({{n: v(n) for n in {(*RANGED, 'torch')!r}}})"
    subprocess.run([python, "-c", code], check=True)


if __name__ == "__main__":
    sys.exit(main())
