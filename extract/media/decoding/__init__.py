"""Video files to frames: opened safely, listed, and decoded frame by frame. The way in is `extract.media.decoders`."""
