"""Journals: every finished row goes to disk, so that an interrupted run can be resumed; one file for each rank."""
