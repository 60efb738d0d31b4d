"""RecBole's dataset folders: how they are written from a split and features, and how they are checked."""
