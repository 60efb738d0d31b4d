"""Video files to frames: opened safely, listed and decoded frame by frame. `extract.media.decoders` is the entrance."""
