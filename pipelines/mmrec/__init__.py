"""MMRec's dataset folders: written from a split and features, and checked."""
