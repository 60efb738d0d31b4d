"""Run folders: how they are made from a recipe and opened again, what they hold, and what a run cost."""
