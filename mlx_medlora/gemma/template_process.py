"""The process that renders one chat template: `python template_process.py`, started by `templates.Renderer`.

Reads a JSON line with the template, then one for each conversation, and answers each with a JSON line.
It imports nothing of this package, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys

ADDRESS_SPACE = 4 << 30  # where the system keeps to it (Linux); the parent watches what is really used
ALONE = 30  # seconds
MOST_CHARACTERS = 2_000_000


def serve() -> None:
    """Answer until stdin ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    with contextlib.suppress(ValueError, OSError):  # macOS refuses
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
    template = json.loads(sys.stdin.readline())
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        signal.alarm(ALONE)  # ends this process, should the one that watches it be gone
        try:
            text = render_jinja_template(
                conversations=[asked["conversation"]],
                chat_template=template,
                add_generation_prompt=asked["prompt"],
                **asked["tokens"],
            )[0][0]
            if len(text) > MOST_CHARACTERS:
                raise ValueError(f"it writes {len(text):,} characters; {MOST_CHARACTERS:,} is the limit")
            answer = {"text": text}
        except MemoryError:
            answer = {"fault": "it takes too much memory"}
        except Exception as error:  # whatever a stranger's template does wrong is said, not raised
            answer = {"fault": f"{type(error).__name__}: {error}"[:500]}
        signal.alarm(0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
