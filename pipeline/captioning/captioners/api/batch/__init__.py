"""The Batch API: request files, what is noted about each batch, and the batches from upload to results."""
