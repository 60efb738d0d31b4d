"""Verbs that read finished runs: their metrics again, in one table, and as a page to look at."""
