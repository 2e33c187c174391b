"""The PLLaVA family: checkpoint layouts, frame preprocessing, model and captioner."""
