"""From the path of a clip to its sampled frames. Knows nothing about models and frameworks."""
