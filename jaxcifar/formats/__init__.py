"""File formats of a trained network, for use with and without this package."""
