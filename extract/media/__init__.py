"""What an item has on disk, found and read: catalogs of folders, decoders in worker processes, covers, LMDBs, files of pixels."""
