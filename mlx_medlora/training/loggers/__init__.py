"""Outside loggers that watch a run through the callback protocol of `training/events.py`: figures only."""
