"""Chat templates: programs that come with a tokenizer.

MedGemma's own and the embedded model's are known by their bytes and run here. Any other runs in transformers'
sandbox in a process of its own, which is ended when it takes too long or too much memory: the sandbox keeps
a template from this machine's files, not from looping for ever.
"""

from __future__ import annotations

import hashlib
import json
import queue
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import psutil

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.gemma import template_process

KNOWN = frozenset(
    {
        "7de1c58e208eda46e9c7f86397df37ec49883aeece39fb961e0a6b24088dd3c4",  # MedGemma, Gemma 3
        "4e490956a5b05d59c97683c9135243397d0723e5332c47a133fc15aa9d393773",  # tiny-medgemma
    }
)
MAX_BYTES = 64 * 1024
SECONDS = 2.0  # of a processor, for one conversation; a sound template takes a thousandth of one
MEMORY = 512 << 20  # bytes beyond what the process had before its first conversation
_PATIENCE = 25.0  # seconds on the wall, however busy the machine is
_START_SECONDS = 60.0
_GLANCE = 0.05

_HINT = "Use the chat template of the model's source (chat_template.jinja)."
Conversation = list[dict[str, Any]]


def is_known(template: str) -> bool:
    """True for a template that is trusted by its bytes."""
    return hashlib.sha256(template.encode()).hexdigest() in KNOWN


class Renderer:
    """Renders conversations with one template of a stranger; `path` is its file, for messages."""

    def __init__(self, template: str, tokens: dict[str, Any], path: Path) -> None:
        """`tokens`: the special tokens by the names that templates use. Raises InputError for a huge one."""
        if len(template.encode()) > MAX_BYTES:
            raise InputError(f"the chat template has more than {MAX_BYTES:,} bytes", path=path, hint=_HINT)
        self.template, self.tokens, self.path = template, tokens, path
        self._child: _Child | None = None

    def __call__(self, conversation: Conversation, *, prompt: bool) -> str:
        """The conversation's text, to be continued with `prompt`.

        Raises InputError where the template fails, takes longer than SECONDS or more than MEMORY, and where
        it writes more than two million characters.
        """
        if self._child is None:
            self._child = _Child(self.template)
        question = {"conversation": conversation, "prompt": prompt, "tokens": self.tokens}
        answer = self._child.ask(question)
        if "text" in answer:
            return str(answer["text"])
        if not self._child.alive:
            self._child = None
        raise InputError(f"the chat template cannot be used: {answer['fault']}", path=self.path, hint=_HINT)


class _Child:
    """The process, and a thread that reads its answers."""

    def __init__(self, template: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", template_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the run, which may want to finish with it
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        self._ended = weakref.finalize(self, _end, self._process)
        self._before = 0
        started = self._exchange(template, _START_SECONDS)
        if "ready" not in started:
            raise MedloraError(f"the process for chat templates did not start: {started['fault']}")
        self._before = psutil.Process(self._process.pid).memory_info().rss

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The process's answer, `text` or `fault`; one that takes too much ends the process."""
        return self._exchange(question, _PATIENCE)

    def _exchange(self, value: object, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"fault": "its process has ended"}
        deadline, spent = time.monotonic() + seconds, self._spent()
        while True:
            try:
                line = self._answers.get(timeout=_GLANCE)
            except queue.Empty:
                fault = self._excess(deadline, spent)
                if fault is not None:
                    self._ended()
                    return {"fault": fault}
                continue
            found: dict[str, Any] = json.loads(line) if line else {"fault": "its process has ended"}
            return found

    def _spent(self) -> float:
        """Seconds of a processor that the process has taken."""
        try:
            return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))
        except psutil.Error:
            return 0.0

    def _excess(self, deadline: float, spent: float) -> str | None:
        """What the process has too much of: `spent` were its seconds when it was asked."""
        if time.monotonic() > deadline or (self._before and self._spent() - spent > SECONDS):
            return f"it takes longer than {SECONDS:g} s"
        try:
            used = psutil.Process(self._process.pid).memory_info().rss - self._before
        except psutil.Error:
            return None  # it has just ended: the reader says so
        return f"it takes more than {MEMORY >> 20} MiB of memory" if self._before and used > MEMORY else None


def _read(stream: Any, answers: queue.Queue[str]) -> None:
    for line in stream:
        answers.put(line)
    answers.put("")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
