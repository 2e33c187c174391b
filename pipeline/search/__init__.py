"""Full-text search in captions, with SQLite's FTS5. Imports no framework."""
