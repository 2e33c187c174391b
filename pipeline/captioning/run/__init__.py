"""A captioning run: command line, plan, the work of each rank, gathering of results, output files."""
