"""Credentialed marks, and commands that must succeed."""

from __future__ import annotations

from mlx_medlora.cli.app import run

TINY = ("--model", "tiny-medgemma")
NAME = "PhysioNet MIMIC-CXR"
TERMS = "https://physionet.org/content/mimic-cxr/"
MARK = {"name": NAME, "credentialed": True, "terms": TERMS}
OTHER = {"name": "eICU", "credentialed": True, "terms": None}


def do(*arguments: object) -> None:
    assert run([str(word) for word in arguments]) == 0
