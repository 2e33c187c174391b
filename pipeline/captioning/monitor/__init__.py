"""Looking at runs from outside: progress from the journals, speed, the gallery of captions."""
