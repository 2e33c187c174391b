"""Descriptions of long videos: captions of their segments, a summary and a title."""
