"""The meta table, the files next to it, and the result of a row. Journals are in the package `journal`."""
