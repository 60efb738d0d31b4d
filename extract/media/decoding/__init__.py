"""Video files to frames: opened safely, listed, and decoded frame by frame. `extract/media/decoders.py` is the way in."""
