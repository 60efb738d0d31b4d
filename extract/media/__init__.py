"""Media on disk: the item catalog, decoding in worker processes, covers, LMDB environments and pixel files."""
