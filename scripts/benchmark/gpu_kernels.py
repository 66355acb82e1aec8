"""Compiles training for an NVIDIA GPU, which need not be present, and counts kernels per step.

    pip install --no-deps jax-cuda13-plugin==JAX jax-cuda13-pjrt==JAX   # JAX: the version of jax
    python scripts/benchmark/gpu_kernels.py --models resnet20@128 resnet18@512 --hlo DIRECTORY
    python scripts/benchmark/gpu_kernels.py --models resnet20@128 --vmap 1 8

Small networks are bound by kernel launches, which can be counted on any machine. Prints a Markdown
table: kernels per step within a call of many steps, how many of them are convolutions and copies,
and the memory that XLA plans beside the call's arguments. It cannot show times, and XLA chooses
algorithms without trying them (autotuning is off).
"""

import argparse
import collections
import itertools
import os
import re
from pathlib import Path
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no CUDA to check
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"

import jax
import numpy as np
from benchmark import model_and_batch_size
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcifar import devices
from jaxcifar.config import default, durations
from jaxcifar.config.validation import validate
from jaxcifar.data import datasets, device_pipeline
from jaxcifar.data.split import Split
from jaxcifar.feed import compile_steps
from jaxcifar.program import create_program
from jaxcifar.stacking import stacked

_LENGTH = 10**5  # steps of the run
# As XLA describes an H100 that it finds, its GpuTargetConfigProto; the versions are chosen.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_MAX_STEPS = 100  # per call
_NO_KERNELS = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}


def compile_training(
    model: str, batch_size: int, precision: str, runs: int = 1
) -> jax.stages.Compiled:
    """Returns a call of many steps on CIFAR-10, compiled for one H100.

    Args:
      model: name of the network.
      batch_size: images per step, of each run.
      precision: see `train.precision`.
      runs: number of runs at once, which differ in the seed and the learning rate.
    """
    config = default()
    config.model.name, config.train.precision = model, precision
    config.train.batch_size, config.train.num_steps = batch_size, _LENGTH
    validate(config)
    info = datasets.info(config.dataset)
    plan = durations(config, info.train_size)
    program = create_program(config, info, plan)
    images = np.zeros((info.train_size, *info.image_shape), np.uint8)
    split = Split(images, np.zeros(info.train_size, np.int32), on_device=True)
    order, _, position = device_pipeline.Order(0, split.size, batch_size, _MAX_STEPS).at(0)
    state, numbers = jax.eval_shape(program.create_state), {}
    build_step = lambda _: (program.train_step, 0)  # noqa: E731
    if runs > 1:
        configs = [config.copy_and_resolve_references() for _ in range(runs)]
        for seed, other in enumerate(configs):
            other.train.seed = seed
        several = stacked(configs, info, plan, [program.learning_rate] * runs)
        build_step, numbers = several.build_step, several.numbers
        state, order = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype), (state, order)
        )
    with mock.patch.object(devices, "map_train_step", lambda step, in_axes: step):
        run_steps = compile_steps(build_step, config, _MAX_STEPS, stacked=runs > 1)
    resident = device_pipeline.as_resident(split)
    arguments = state, numbers, resident, order, position, np.int32(1)

    topology = topologies.get_topology_desc("", "cuda", target_config=_H100, topology="1x1x1")
    mesh, spec = Mesh(np.array(topology.devices), (devices.AXIS,)), PartitionSpec()
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
        arguments,
    )
    call = jax.shard_map(run_steps, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(call, donate_argnums=0).lower(*shapes).compile()


def kernels_in_loop(hlo: str) -> collections.Counter:
    """Counts the kernels in the largest loop of a compiled program.

    Returns:
      The number of each kind of instruction; cuDNN's calls count as "convolution".
    """
    bodies = dict(re.findall(r"^%?([\w.-]+) \(.*?\) -> .*? \{\n(.*?)^\}", hlo, re.S | re.M))
    loop = max((bodies[name] for name in re.findall(r" while\(.*body=%?([\w.-]+)", hlo)), key=len)
    loop = re.sub(r"custom-call(\(.*custom_call_target=\"__cudnn\$conv)", r"convolution\1", loop)
    kinds = re.findall(r"^\s*(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([\w-]+)\(", loop, re.M)
    return collections.Counter(kind for kind in kinds if kind not in _NO_KERNELS)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [("resnet20", 128), ("resnet56", 128), ("resnet18", 512), ("densenet_bc_100_12", 64)]
    parser.add_argument("--models", nargs="+", type=model_and_batch_size, default=known)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--vmap", nargs="+", type=int, default=[1], help="numbers of runs at once")
    parser.add_argument("--hlo", type=Path, help="directory for the compiled programs, as text")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {args.precision}\n")
    print("| configuration | runs | kernels per step | convolutions | copies | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (model, batch_size), runs in itertools.product(args.models, args.vmap):
        with mock.patch("jax.default_backend", return_value="gpu"):
            compiled = compile_training(model, batch_size, args.precision, runs)
        if args.hlo:
            args.hlo.mkdir(parents=True, exist_ok=True)
            (args.hlo / f"{model}_{runs}.txt").write_text(compiled.as_text())
        kinds = kernels_in_loop(compiled.as_text())
        memory = compiled.memory_analysis().temp_size_in_bytes >> 20
        counts = (kinds.total(), kinds["convolution"], kinds["copy"])
        row = (f"{model}@{batch_size}", runs, *counts, memory)
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
