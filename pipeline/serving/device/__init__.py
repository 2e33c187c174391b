"""What runs in a device process: media are decoded, questions become requests to the engine, answers become text."""
