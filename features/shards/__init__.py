"""Crash-safe jobs on one feature file: shards, who makes which, one run at a time, sources whose date changed."""
