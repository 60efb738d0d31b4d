"""Run folders: made from a recipe, opened again, what stands in them and what a run cost."""
