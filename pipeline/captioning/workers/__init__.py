"""Ranks working together: launch, rendezvous, collectives and the gather of results."""
