"""Runs compared side by side: rows, tests, tables, costs, pictures."""
