"""The stages of `benchmarks/gpu.py`, one module each, and what they share.

A stage imports a library only where a row needs it: what is not installed costs that row and nothing else.
"""
