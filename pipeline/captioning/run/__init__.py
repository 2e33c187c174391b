"""A run: from the command line through the plan and the work of each rank to the outputs."""
