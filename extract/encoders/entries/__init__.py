"""One declarative entry per encoder, by modality; `extract.encoders.registry` lists them all."""
