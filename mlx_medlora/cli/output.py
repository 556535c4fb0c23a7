"""What a command says: its result to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Step = Callable[[int, int], None]


class Output:
    """Says results to people (rich) or to programs (`--json`: one object on stdout, nothing else there)."""

    def __init__(self) -> None:
        self.json = False
        self._stdout: TextIO | None = None

    def use_json(self, wanted: bool) -> None:
        """With `wanted`, keep stdout for `result` alone: stray prints of any library go to stderr."""
        self.json = wanted
        if wanted and self._stdout is None:
            self._stdout, sys.stdout = sys.stdout, sys.stderr

    def reset(self) -> None:
        """Give stdout back; the next command starts afresh."""
        if self._stdout is not None:
            sys.stdout, self._stdout = self._stdout, None
        self.json = False

    def result(self, value: dict[str, Any], *renderables: RenderableType) -> None:
        """A command's outcome: `value` as JSON, or `renderables` (rich, plain strings too) for people.

        Raises ValueError where `value` holds NaN, which is not JSON.
        """
        if self.json:
            text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
            print(text, file=self._stdout or sys.stdout, flush=True)
            return
        console = _console(sys.stdout)
        for renderable in renderables:
            console.print(renderable, highlight=False, markup=False, soft_wrap=isinstance(renderable, str))

    def note(self, text: str) -> None:
        """A remark on the way, to stderr."""
        print(text, file=sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        """Something that is not as it should be but stops nothing, to stderr."""
        self.note(f"Warning: {text}")

    @contextmanager
    def progress(self, title: str) -> Iterator[Step]:
        """Yield step(done, total), which moves a bar on stderr; without a terminal it only says the end."""
        if not sys.stderr.isatty():
            yield lambda done, total: self.note(f"{title}: done") if done >= total else None
            return
        from rich.progress import Progress

        with Progress(console=_console(sys.stderr), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # No terminal, no width: tables in a log should not break at 80 columns.
    return Console(file=stream, width=None if stream.isatty() else 110)


out = Output()
