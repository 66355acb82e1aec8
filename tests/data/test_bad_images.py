"""Images that cannot be decoded: what is shown instead, and when a run stops."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcifar.config import default
from jaxcifar.data import own_data
from jaxcifar.data.bad_images import check_share
from jaxcifar.data.first_look import look_through
from jaxcifar.data.folder_pipeline import eval_batches, train_batches
from jaxcifar.data.image_folder import FolderSplit, scan
from jaxcifar.errors import InputError
from jaxcifar.train import train
from tests.helpers import read_metrics, restore

COUNT = 12


def write(folder, levels):
    """Writes an even grey picture per level."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, level in enumerate(levels):
        picture = Image.fromarray(np.full((16, 16, 3), level, np.uint8))
        picture.save(folder / f"{number:02}.png")


@pytest.fixture
def split(tmp_path):
    """Twelve grey pictures; number n has grey level 10 n + 10, and n as its label."""
    write(tmp_path, range(10, 130, 10))
    names = tuple(f"{number:02}.png" for number in range(COUNT))
    return FolderSplit(str(tmp_path), names, np.arange(COUNT, dtype=np.int32), ("a",))


def spoil(split, *numbers):
    for number in numbers:
        with open(split.path(number), "wb"):
            pass


def batches(split, **kwargs):
    arguments = {"batch_size": 6, "seed": 0, "first_step": 0, "num_steps": 6, **kwargs}
    return list(train_batches(split, image_size=16, on_bad_image="skip", **arguments))


def joined(found, name):
    return np.concatenate([batch[name] for batch in found])


def shown(epoch, bad):
    """The images that an epoch shows: half an epoch later, or the next that can be decoded."""
    return [
        number if number not in bad else next(n for n in np.roll(epoch, -place) if n not in bad)
        for number, place in zip(epoch, np.arange(COUNT) + COUNT // 2, strict=True)
    ]


def test_a_bad_image_is_replaced_by_the_one_half_an_epoch_later_or_the_next(split):
    order = joined(batches(split), "label").reshape(3, COUNT)
    bad = order[0, [2, 8]].tolist()  # half an epoch apart
    spoil(split, *bad)
    found = batches(split)
    labels = joined(found, "label")
    np.testing.assert_array_equal(labels, np.concatenate([shown(epoch, bad) for epoch in order]))
    assert labels[2] == order[0, 9] and labels[8] == order[0, 3]
    np.testing.assert_array_equal(joined(found, "replaced"), np.isin(order, bad).ravel())
    assert joined(found, "mask").all()
    np.testing.assert_array_equal(joined(found, "image")[:, 0, 0, 0], 10 * labels + 10)


def test_replacements_are_the_same_however_a_run_is_divided(split):
    spoil(split, 1, 4, 5)
    whole = batches(split)
    # The second of two processes, from the second step on.
    share = batches(split, batch_size=12, first_step=1, num_steps=3, process=1, num_processes=2)
    for name in "image", "label", "replaced":
        for batch, other in zip(share, whole[3::2], strict=True):
            np.testing.assert_array_equal(batch[name], other[name])


def test_too_large_a_share_of_bad_images_stops_training_and_evaluation(split):
    spoil(split, 3, 7, 8)
    assert len(batches(split, max_bad_images=0.25)) == 6
    message = r"3 of its 12 images cannot be decoded \(.*/03.png, .*/07.png, .*/08.png\)"
    with pytest.raises(InputError, match=message):
        batches(split, max_bad_images=0.2, batch_size=12)
    arguments = {"image_size": 16, "batch_size": 12, "on_bad_image": "skip"}
    with pytest.raises(InputError, match=message + "; at most dataset.max_bad_images = 0.2 "):
        list(eval_batches(split, **arguments, max_bad_images=0.2))


def test_a_share_is_that_of_the_whole_split():
    check_share("a", 29, 50, 100, 0.29)
    with pytest.raises(InputError, match="a: 30 of the 50 images read, of 100, cannot"):
        check_share("a", 30, 50, 100, 0.29)
    names = [f"{number}.png" for number in range(5)]
    with pytest.raises(InputError, match=r"5 of its 10 .* \(0.png, 1.png, 2.png, ...\);"):
        check_share("a", names, 10, 10, 0.1)


def test_training_stops_where_no_image_can_be_decoded(split):
    spoil(split, *range(COUNT))
    with pytest.raises(InputError, match="nothing to train on.*none of the images tried"):
        batches(split)
    with pytest.raises(InputError, match="none of its 12 images can be decoded"):
        batches(split, batch_size=12)


@pytest.fixture
def root(tmp_path):
    """Two classes of grey pictures: eight for training and four for evaluation."""
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            levels = np.linspace(180, 220, 2 * count).astype(int)[label::2]
            write(tmp_path / "images" / part / name, levels)
    return tmp_path / "images"


def folder_config(root, **fields):
    config = default()
    config.dataset.name, config.dataset.data_dir = "image_folder", str(root)
    config.dataset.image_size, config.dataset.on_bad_image = 16, "skip"
    config.dataset.max_bad_images = 1.0
    config.augment.crop_area, config.augment.horizontal_flip = 1.0, False
    config.model.name, config.train.batch_size, config.train.num_steps = "tiny", 8, 1
    config.optimizer.learning_rate = 1e-12
    config.log.tensorboard = False
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_batch_statistics_are_close_to_those_without_the_files(root, tmp_path):
    spoiled = [root / "train" / name for name in ("cat/01.png", "cat/02.png", "dog/01.png")]
    found = []
    for spoil in (lambda path: path.write_bytes(b""), lambda path: path.unlink()):
        for path in spoiled:
            spoil(path)
        own_data.scan_folder.cache_clear()
        workdir = tmp_path / f"run{len(found)}"
        config = folder_config(root)
        results = train(config, workdir)
        (means,) = (
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                restore(config, workdir, 1).state.batch_stats
            )
            if "mean" in jax.tree_util.keystr(path)
        )
        found.append((means, results["test"]["loss"]))
    (one, loss), (other, other_loss) = found
    np.testing.assert_allclose(one, other, atol=0.1 * np.abs(other).max())
    assert loss == pytest.approx(other_loss, rel=0.01)
    (row,) = (row for row in read_metrics(tmp_path / "run0") if row["split"] == "train")
    assert float(row["skipped"]) == 3


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "name, field, value, message",
    [
        ("val/dog/01.png", "on_bad_image", "error", "val/dog/01.png cannot be decoded"),
        ("train/cat/03.png", "max_bad_images", 0.1, r"1 of its 8 images .*\(.*/cat/03.png\)"),
    ],
)
def test_bad_images_are_found_before_training_and_nothing_is_written(
    root, tmp_path, name, field, value, message
):
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: len(whole) // 2])
    config = folder_config(root, dataset__max_bad_images=0.1)
    config.dataset[field] = value
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_look_at_a_folder_is_described_and_can_be_left_out(root):
    splits = scan(str(root))
    (root / "train" / "cat" / "03.png").write_bytes(b"")
    line = look_through(splits, folder_config(root).dataset)
    assert line.startswith("images decoded as a check: 4 test, 8 train (1 bad), in ")
    assert look_through(splits, folder_config(root, dataset__check_seconds=0.0).dataset) == ""
