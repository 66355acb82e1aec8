"""Pure functions from arrays to numbers."""

from jaxcifar.metrics.classification import (
    NUM_BINS,
    Sums,
    Total,
    add,
    batch_sums,
    details,
    evaluation_sums,
    most_confused,
    summarize,
)

__all__ = [
    "NUM_BINS",
    "Sums",
    "Total",
    "add",
    "batch_sums",
    "details",
    "evaluation_sums",
    "most_confused",
    "summarize",
]
