"""Captions by a service that speaks OpenAI's protocol: requests, pace, outcomes, and a store of paid answers."""
