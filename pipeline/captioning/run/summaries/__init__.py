"""Summaries and titles of videos, from the captions of their segments."""
