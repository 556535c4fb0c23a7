"""Nothing leaves the machine unasked: dependencies' telemetry is off, and downloads can be forbidden.

Imports nothing heavy, and is called before anything that reads these names from the environment.
"""

from __future__ import annotations

import os

OFFLINE = "HF_HUB_OFFLINE"
# What decides whether huggingface_hub, and transformers through it, report their use. Each is a choice.
TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
_OFFLINE_NAMES = (OFFLINE, "TRANSFORMERS_OFFLINE")  # huggingface_hub reads both
_TRUE = ("1", "ON", "YES", "TRUE")  # huggingface_hub's own


def turn_off_telemetry() -> None:
    """Set `TELEMETRY` for libraries that are imported from now on, unless the user has set one of them."""
    if not any(name in os.environ for name in TELEMETRY):
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "1"


def turn_off_advice() -> None:
    """Keep transformers from saying that torch is absent, which `parity` alone needs; its user may ask."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


class _Network:
    """Whether this process was told to stay off the network."""

    forbidden = False


def forbid(wanted: bool) -> None:
    """Forbid downloads, or leave it to the environment; a command sets this by its --offline."""
    _Network.forbidden = wanted


def is_offline() -> bool:
    """True after `forbid(True)`, and where HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set to 1."""
    return _Network.forbidden or any(_set(name) for name in _OFFLINE_NAMES)


def _set(name: str) -> bool:
    return os.environ.get(name, "").upper() in _TRUE
