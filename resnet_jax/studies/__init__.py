"""Studies: many runs from one file, a table of them, and what they say."""
