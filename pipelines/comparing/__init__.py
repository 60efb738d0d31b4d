"""Runs beside each other: rows, tests, tables, costs, pictures."""
