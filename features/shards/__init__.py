"""Crash-safe jobs on one feature file: shards, who makes which, one run at a time, and sources whose date has changed."""
