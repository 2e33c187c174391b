"""The device processes as the HTTP process sees them: start, restart, the least loaded one, answers."""
