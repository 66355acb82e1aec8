import csv
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcifar import models
from jaxcifar.errors import InputError
from jaxcifar.metrics.layer_statistics import (
    ALL,
    layer_statistics,
    troubled_layers,
)
from jaxcifar.reporting.csv_log import CsvLog
from jaxcifar.reporting.layer_table import LAYER_COLUMNS, layer_histograms, layer_rows
from tests.helpers import COMPILED_QUICKLY


def tree(kernel, bias, scale):
    """Two layers: block/conv with a kernel and a bias, norm with a scale."""
    return {
        "block": {"conv": {"kernel": jnp.array([kernel]), "bias": jnp.array([bias])}},
        "norm": {"scale": jnp.array([scale])},
    }


def test_norms_and_ratios_by_hand():
    found = layer_statistics(
        params=tree([4.0, 2.0, 2.0], 1.0, 12.0),  # norms 5 and 12
        gradients=tree([2.0, -4.0, 4.0], 8.0, 24.0),  # 10 and 24
        updates=tree([0.0, 0.3, 0.0], -0.4, 0.0),  # 0.5 and 0
    )
    assert {layer: {n: float(v) for n, v in values.items()} for layer, values in found.items()} == {
        "block/conv": {"gradient_norm": 10, "weight_norm": 5, "update_ratio": pytest.approx(0.1)},
        "norm": {"gradient_norm": 24, "weight_norm": 12, "update_ratio": 0},
        ALL: {"gradient_norm": 26, "weight_norm": 13, "update_ratio": pytest.approx(0.5 / 13)},
    }
    assert all(v.dtype == jnp.float32 and v.shape == () for v in jax.tree.leaves(found))


def test_the_ratio_of_weights_that_are_zero_is_zero_unless_the_update_is_not_finite():
    ones = tree([1.0], 1.0, 1.0)

    def ratio(update):
        found = layer_statistics(tree([1.0], 1.0, 0.0), ones, tree([1.0], 1.0, update))
        return found["norm"]["update_ratio"]

    assert ratio(0.5) == 0
    assert jnp.isnan(ratio(jnp.nan)) and jnp.isnan(ratio(jnp.inf))


def test_values_that_are_not_finite_stay_visible():
    ones = tree([1.0, 1.0], 1.0, 1.0)
    found = layer_statistics(ones, tree([1.0, jnp.nan], 1.0, jnp.inf), ones)
    assert jnp.isnan(found["block/conv"]["gradient_norm"])
    assert jnp.isposinf(found["norm"]["gradient_norm"])
    assert jnp.isnan(found[ALL]["gradient_norm"])
    assert found["norm"]["weight_norm"] == found["norm"]["update_ratio"] == 1


def test_squares_are_summed_in_float32():
    halves = {"dense": {"kernel": jnp.full(4096, 300.0, jnp.float16)}}
    found = layer_statistics(halves, halves, halves)["dense"]
    assert found["gradient_norm"] == found["weight_norm"] == 300 * 64  # the squares overflow half


def test_a_parameter_of_the_network_itself_is_a_layer():
    params = {"position": jnp.ones(4), "head": {"kernel": jnp.ones(9)}}
    found = layer_statistics(params, params, params)
    assert set(found) == {"position", "head", ALL}
    assert found["position"]["weight_norm"] == 2


def parameters(name, **fields):
    model = models.create(name, num_classes=10, **fields)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)["params"]


def layers_of(params):
    return set(jax.eval_shape(layer_statistics, params, params, params)) - {ALL}


def test_layers_of_a_resnet():
    inside = ("conv1", "norm1", "conv2", "norm2")
    assert layers_of(parameters("resnet8")) == {
        *("conv", "norm", "head"),
        *(f"stage{stage}_block1/{layer}" for stage in (1, 2, 3) for layer in inside),
    }


def test_layers_of_a_densenet():
    inside = ("norm1", "conv1", "norm2", "conv2")
    assert layers_of(parameters("densenet_bc_100_12", depth=10)) == {
        *("conv", "norm", "head"),
        *(f"transition{block}_{layer}" for block in (1, 2) for layer in ("norm", "conv")),
        *(f"block{block}_layer1/{layer}" for block in (1, 2, 3) for layer in inside),
    }


def training(learning_rate, steps, **fields):
    """The statistics of several steps of a ResNet-8 on random images."""
    model = models.create("resnet8", num_classes=10, **fields)
    images = jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    labels = jnp.arange(16) % 10
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), images)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    optimizer = optax.trace(decay=0.9)

    @partial(jax.jit, compiler_options=COMPILED_QUICKLY)
    def step(params, batch_stats, opt_state, learning_rate):
        def loss(params):
            logits, _ = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        gradients = jax.grad(loss)(params)
        momentum, opt_state = optimizer.update(gradients, opt_state)
        updates = jax.tree.map(lambda x: -learning_rate * x, momentum)
        found = layer_statistics(params, gradients, updates)
        return optax.apply_updates(params, updates), opt_state, found

    opt_state = optimizer.init(params)
    for _ in range(steps):
        params, opt_state, found = step(params, batch_stats, opt_state, learning_rate)
        yield jax.device_get(found)


# Scales that start at 0 are slow to leave it at the start of a warm-up.
@pytest.mark.parametrize(
    ("learning_rate", "fields"),
    [(0.1, {}), (1e-5, {"zero_init_residual": True}), (1e-5, {"norm": "none"})],
)
def test_a_healthy_network_has_no_troubled_layers(learning_rate, fields):
    for found in training(learning_rate, steps=10, **fields):
        assert troubled_layers(found) == []


def statistics(**gradient_norms):
    values = {"weight_norm": np.float32(1), "update_ratio": np.float32(0.1)}
    norms = {name: np.float32(norm) for name, norm in gradient_norms.items()}
    # Whatever the network's norm is, it is no layer.
    return {n: {"gradient_norm": v, **values} for n, v in {ALL: np.float32(1e9), **norms}.items()}


def test_vanishing_gradients_are_small_beside_the_largest():
    found = statistics(conv=1e-9, block=1e-5, head=1.0)
    assert troubled_layers(found) == [
        "gradients vanish (norm below 1e-06 of the largest layer's) in 1 of 3 layers: conv"
    ]
    assert "in 2 of 3 layers: block, conv" in troubled_layers(found, vanishing=1e-4)[0]
    assert troubled_layers(statistics(conv=1e-12, block=1e-11, head=1e-10)) == []


def test_exploding_gradients_are_reported():
    found = statistics(conv=2e3, block=1e3, head=1.0)
    assert troubled_layers(found) == ["gradients explode (norm above 1000) in 1 of 3 layers: conv"]
    assert troubled_layers(found, exploding=1e4) == []


def test_values_that_are_not_finite_are_reported_beside_the_rest():
    found = statistics(a=np.nan, b=np.inf, c=1.0, d=1e-8, e=1e4, f=1.0)
    found["c"]["update_ratio"] = np.float32(np.inf)
    assert troubled_layers(found) == [
        "gradients, weights or updates are not finite in 3 of 6 layers: a, b, c",
        "gradients explode (norm above 1000) in 1 of 6 layers: e",
        "gradients vanish (norm below 1e-06 of the largest layer's) in 1 of 6 layers: d",
    ]


def test_many_layers_fit_on_a_line_in_the_order_of_their_numbers():
    found = statistics(head=1.0, **{f"block{n}": 1e-8 for n in (10, 11, 12, 1, 2, 3)})
    (line,) = troubled_layers(found)
    assert line.endswith("in 6 of 7 layers: block1, block2, block3, ...")


def test_zero_gradients_are_reported_unless_allowed():
    found = statistics(conv=0.0, head=1.0)
    assert "in 1 of 2 layers: conv" in troubled_layers(found)[0]
    assert troubled_layers(found, allow_zero=True) == []


@pytest.mark.parametrize("share", [0.0, 1e-3])
def test_small_gradients_are_not_reported_beside_a_scale_near_zero(share):
    found = statistics(conv=share * 1e-5, scale=1.0, head=1.0)
    found["scale"]["weight_norm"] = np.float32(share)
    assert troubled_layers(found) == []
    found["conv"]["gradient_norm"] = np.float32(share * 1e-7)
    assert len(troubled_layers(found)) == (share > 0)


def test_every_layer_of_a_dead_network_is_reported():
    assert "in 2 of 2 layers" in troubled_layers(statistics(conv=0.0, head=0.0))[0]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_the_network_and_for_each_layer(tmp_path):
    table = CsvLog(tmp_path / "layers.csv", LAYER_COLUMNS, first_step=0)
    table.write(layer_rows(10, 1.28, statistics(conv=1 / 3, head=np.nan)))
    found = read(tmp_path / "layers.csv")
    table.close()
    assert [row["layer"] for row in found] == [ALL, "conv", "head"]
    assert found[1] == {
        "step": "10",
        "epoch": "1.2800",
        "layer": "conv",
        "gradient_norm": "0.3333333",
        "weight_norm": "1",
        "update_ratio": "0.1",
    }
    assert found[2]["gradient_norm"] == "nan"


def write_steps(path, steps, first_step=0):
    table = CsvLog(path, LAYER_COLUMNS, first_step)
    for step in steps:
        table.write(layer_rows(step, step / 7, statistics(conv=0.1 * step)))
    table.close()


@pytest.mark.parametrize("text", ["a note\n1\n", "step,layer\nx,conv\n", "step\n1,2,3\n"])
def test_a_table_that_is_not_a_runs_is_named_and_left(tmp_path, text):
    path = tmp_path / "layers.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="layers.csv: not a metrics table"):
        CsvLog(path, LAYER_COLUMNS, first_step=5)
    assert path.read_text() == text


def test_a_resumed_run_has_the_table_of_one_that_never_stopped(tmp_path):
    stopped, whole = tmp_path / "stopped.csv", tmp_path / "whole.csv"
    write_steps(stopped, (10, 20, 30))
    write_steps(stopped, (30, 40), first_step=25)
    write_steps(whole, (10, 20, 30, 40))
    assert stopped.read_bytes() == whole.read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["stopped.csv", "whole.csv"]


@pytest.mark.parametrize("cut", [1, 3, 12, 30])
def test_a_kill_may_cut_the_last_line_anywhere(tmp_path, cut):
    path = tmp_path / "layers.csv"
    write_steps(path, (10, 20))
    before = path.read_bytes()
    write_steps(path, (100,), first_step=20)
    path.write_bytes(path.read_bytes()[: len(before) + cut])  # "1" looks like an early step
    write_steps(path, (), first_step=20)
    assert path.read_bytes() == before


def test_a_new_start_drops_the_rows_of_a_run_without_checkpoint(tmp_path):
    write_steps(tmp_path / "layers.csv", (10,))
    write_steps(tmp_path / "layers.csv", ())
    assert (tmp_path / "layers.csv").read_text() == ",".join(LAYER_COLUMNS) + "\n"


def test_histograms_are_flat_and_finite():
    found = layer_histograms(tree([1.0, 2.0], 3.0, 4.0), tree([5.0, jnp.nan], jnp.inf, 6.0))
    assert {tag: values.tolist() for tag, values in found.items()} == {
        "weights/block/conv/kernel": [1, 2],
        "weights/block/conv/bias": [3],
        "weights/norm/scale": [4],
        "gradients/block/conv/kernel": [5],
        "gradients/block/conv/bias": [],
        "gradients/norm/scale": [6],
    }
