"""The feature store: HDF5 files keyed by item id that say where they come from. It knows no model and no encoder."""
