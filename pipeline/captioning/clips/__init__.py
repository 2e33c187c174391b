"""From a path to sampled frames; knows no model and no framework."""
