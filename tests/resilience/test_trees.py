"""Hashes of trees of arrays."""

import numpy as np

from jaxcifar.resilience.trees import tree_sha256


def test_a_states_hash_sees_names_types_shapes_and_bits():
    leaf = np.arange(6, dtype=np.float32)
    trees = [
        {"a": leaf},
        {"b": leaf},
        {"a": leaf.astype(np.float64)},
        {"a": leaf.view(np.int32)},
        {"a": leaf.reshape(2, 3)},
        {"a": leaf * np.float32(-1) * np.float32(-1) - np.float32(0), "b": ()},
        {"a": np.where(leaf == 0, np.float32(-0.0), leaf)},
    ]
    hashes = [tree_sha256(tree) for tree in trees]
    assert hashes[5] == hashes[0] and len(set(hashes)) == 6
