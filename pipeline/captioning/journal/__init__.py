"""Journals: every finished row on disk, so that an interrupted run can be resumed."""
