"""Errors meant for people: what was wrong, where, and what to do next."""

from __future__ import annotations

from os import PathLike


class MedloraError(Exception):
    """Something failed that is not the user's input; the command exits with status 1.

    `message` says what went wrong, `hint` what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InputError(MedloraError):
    """The user's input is wrong; the command exits with status 2.

    `path` and `line` (1-based) say where; they are printed before the message.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.path = None if path is None else str(path)
        self.line = line

    def __str__(self) -> str:
        if self.path is None:
            return self.message
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.message}"


class NoSpace(MedloraError):
    """The chosen disk has no room for the output; the command exits with status 2."""

    exit_code = 2


class NotANumber(MedloraError):
    """A loss or a gradient is NaN or infinite; what was computed from it has reached nothing."""


class OutOfMemory(MedloraError):
    """The machine, or a limit on this process, gives no more memory; the command exits with status 1."""


class GateNotMet(MedloraError):
    """A required clinical gate was not met; the command exits with status 3."""

    exit_code = 3


class Interrupted(MedloraError):
    """The user interrupted the run after its state was saved; the command exits with status 130."""

    exit_code = 130


# What MLX says on Metal, CUDA and the CPU, the system's loader, and OpenBLAS's callers; all in lower case.
_MEMORY_WORDS = (
    "unable to allocate",
    "attempting to allocate",
    "insufficient memory",
    "out of memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that there is no more memory: Python's own, or a library's in its words."""
    if isinstance(error, (MemoryError, OutOfMemory)):
        return True
    if isinstance(error, MedloraError) or not isinstance(error, (RuntimeError, OSError, ImportError)):
        return False
    return any(words in str(error).lower() for words in _MEMORY_WORDS)
