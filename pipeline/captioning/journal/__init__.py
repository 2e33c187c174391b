"""Journals: one file for each rank, which records every finished row so that an interrupted run can be resumed."""
