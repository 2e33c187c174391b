"""Observing a run from outside the run: progress from the journals, speed, the gallery of captions."""
