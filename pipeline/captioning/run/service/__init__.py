"""Runs whose captions a service makes: flags, rows as questions, the loop, the Batch API, the dry run."""
