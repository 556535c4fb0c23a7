"""TensorBoard's event files, written without TensorFlow or torch."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from mlx_medlora.training.loggers.figures import Config


class EventFile:
    """Appends scalars to a new event file; what older files of the directory hold after `step` is void."""

    def __init__(self, directory: Path, step: int) -> None:
        self.events = EventFileWriter(str(directory))
        void_from = step + 1 if step else 0
        start = SessionLog(status=SessionLog.START)
        self.events.add_event(Record(wall_time=time.time(), step=void_from, session_log=start))

    def write(self, figures: dict[str, float], step: int) -> None:
        """One scalar for each figure."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self.events.add_event(Record(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is queued, and close the file."""
        self.events.close()


def open_writer(directory: Path, run_id: str, config: Config, step: int) -> EventFile:
    """As `opening.Writer`; TensorBoard knows a run by its directory, and is not given the settings."""
    return EventFile(directory, step)
