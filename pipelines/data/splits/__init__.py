"""Splits that a recipe asks for by name: by time, by ratio, by a column of the table, by folds of users."""
