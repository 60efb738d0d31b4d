"""Crash-safe jobs on one feature file: its shards, claims on them, the lock of a run, sources that have changed."""
