"""Tests of what runs in a device process."""
