"""Cover files to upright RGB pixels: a rule for each pixel mode, and a check for damage that decoders pass over."""
