"""Data sets, and batches from them."""
