"""What items have on disk: catalogs of folders, decoders in worker processes, covers, LMDBs, files of pixels."""
