"""The HTTP side of the server: requests to questions, answers to responses. Knows no model and no process."""
