"""Answers become evidence: scoring, generation, parsing, metrics with their intervals."""
