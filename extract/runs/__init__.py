"""Runs that share a job: whose turn it is, and what the others do meanwhile."""
