"""Folders of images: listing, decoding and cropping, against Pillow and torchvision's rules."""

import csv
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcifar import train as training
from jaxcifar.config import default
from jaxcifar.data import batches as data_batches
from jaxcifar.data import folder_pipeline, image_decoding
from jaxcifar.data.folder_pipeline import eval_batches, train_batches
from jaxcifar.data.image_folder import FolderSplit, scan
from jaxcifar.data.streams import random_words, stream_key
from jaxcifar.environment import import_tensorflow
from jaxcifar.errors import InputError

CLASSES = ("n01", "n02", "n03")
SIZE = 24  # height and width of the results


def picture(height, width, seed):
    """A smooth random picture, [H, W, 3]."""
    coarse = np.random.RandomState(seed).randint(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three classes of pictures of many sizes and kinds, with ten training and five test images."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 10), ("val", 5)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = 40 + 8 * i, 96 - 7 * i + 8 * label
                picture(height, width, 100 * label + i).save(folder / f"{i}.JPEG", quality=95)
    train = root / "train"
    picture(48, 64, 50).convert("L").save(train / "n01" / "3.JPEG", quality=95)
    picture(48, 64, 51).convert("CMYK").save(train / "n01" / "4.JPEG", quality=95)
    picture(48, 64, 52).save(train / "n02" / "3.JPEG", "PNG")
    picture(48, 64, 53).save(train / "n02" / "4.JPEG", quality=95, progressive=True)
    picture(48, 64, 54).convert("RGBA").save(train / "n02" / "5.PNG")
    (train / "n02" / "5.JPEG").unlink()
    (train / "n02" / "notes.txt").write_text("not an image")
    (train / "n02" / ".hidden.JPEG").write_text("not an image")
    (train / ".cache").mkdir()
    return root


@pytest.fixture(scope="module")
def train(root):
    return scan(root)["train"]


@pytest.fixture
def with_bad_images(root, tmp_path):
    """A copy of the folder where one file of each split is truncated, and one is empty."""
    copy = tmp_path / "images"
    shutil.copytree(root, copy)
    # The training image is cut within its header, so that no crop of it can be decoded.
    for part, share in (("train", 0.1), ("val", 0.5)):
        path = copy / part / "n02" / "1.JPEG"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    (copy / "train" / "n03" / "7.JPEG").write_bytes(b"")
    return scan(copy)


def numbered(split):
    """Returns the same files, each with its index as the label."""
    return FolderSplit(split.root, split.names, np.arange(split.size, dtype=np.int32), ())


def batches(split, **kwargs):
    arguments = {"batch_size": 8, "seed": 0, "first_step": 0, "num_steps": 8, **kwargs}
    return list(train_batches(split, image_size=SIZE, **arguments))


def joined(found, name):
    return np.concatenate([batch[name] for batch in found])


def pillow(split, index):
    return Image.open(split.path(index)).convert("RGB")


def levels(image, other):
    """Returns the largest difference between two images, in grey levels."""
    return np.abs(np.asarray(image, int) - np.asarray(other, int)).max()


def assert_equal(one, other):
    assert len(one) == len(other)
    for batch, other_batch in zip(one, other, strict=True):
        assert batch.keys() == other_batch.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other_batch[name])


def test_scan_lists_images_and_labels(root):
    splits = scan(str(root))
    assert list(splits) == ["train", "test"]
    assert splits["train"].size == 30 and splits["test"].size == 15
    for split in splits.values():
        assert split.class_names == CLASSES
        assert split.labels.dtype == np.int32
        for index, label in enumerate(split.labels):
            assert f"/{CLASSES[label]}/" in split.path(index)
    assert splits["train"].names[15] == "train/n02/5.PNG"


@pytest.mark.parametrize("kind", ["names", "sample", "contents"])
def test_fingerprints_of_every_kind_name_it(train, with_bad_images, kind):
    found = train.fingerprint(kind)
    assert found.startswith(f"{kind}:") and scan(train.root)["train"].fingerprint(kind) == found
    assert with_bad_images["train"].fingerprint(kind) != found
    assert train.subset(np.arange(29)).fingerprint(kind) != found


def test_the_size_of_all_files(train):
    size = sum(path.stat().st_size for path in Path(train.root).glob("train/n*/[0-9]*"))
    assert train.has_at_most(size) and not train.has_at_most(size - 1)


def test_subset(train):
    part = train.subset(np.array([12, 3]))
    assert part.size == 2 and part.names == (train.names[12], train.names[3])
    assert part.labels.tolist() == [1, 0] and part.class_names == CLASSES


def test_errors_name_the_folder(root, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/train: No such file.*ROOT/train/CLASS"):
        scan(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match=r"train has no class folders"):
        scan(tmp_path)
    (tmp_path / "train" / "n01").mkdir()
    with pytest.raises(InputError, match=r"train/n01 has no images \(.jpeg"):
        scan(tmp_path)
    shutil.copytree(root / "train", tmp_path / "train", dirs_exist_ok=True)
    (tmp_path / "val").write_text("not a folder")
    with pytest.raises(InputError, match=r"val: Not a directory"):
        scan(tmp_path)
    (tmp_path / "val").unlink()
    shutil.copytree(root / "val", tmp_path / "val")
    shutil.copytree(root / "val" / "n01", tmp_path / "val" / "n09")
    with pytest.raises(InputError, match=r"1 classes are only in val/: n09;"):
        scan(tmp_path)
    shutil.rmtree(tmp_path / "val" / "n09")
    shutil.rmtree(tmp_path / "val" / "n02")
    with pytest.raises(InputError, match=r"1 classes are only in train/: n02;"):
        scan(tmp_path)


@pytest.fixture
def made(tmp_path):
    """A folder of two classes with an empty file as each image; they are only listed here."""
    root = tmp_path / "above" / "made"
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for file in ("0.jpg", "1.JPEG", "2.png"):
                (root / part / name / file).touch()
    return root


def test_all_kinds_of_images_are_listed(made):
    for name in ("3.webp", "4.BMP", "5.gif"):
        (made / "train" / "cat" / name).touch()
    names = scan(made)["train"].names
    assert [name for name in names if "cat" in name] == [
        f"train/cat/{name}" for name in "0.jpg 1.JPEG 2.png 3.webp 4.BMP 5.gif".split()
    ]


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_files_that_are_ignored_are_counted_once_per_split(made, caplog):
    sizes = {name: split.size for name, split in scan(made).items()}
    assert not warnings(caplog)
    (made / "train" / "dog" / "more" / "deep").mkdir(parents=True)
    others = "cat/0.tif cat/1.TIF dog/x.tif dog/README dog/more/7.jpg dog/more/deep/8.jpg 9.png"
    for name in others.split():
        (made / "train" / name).touch()
    (made / "val" / "cat" / "notes.txt").touch()
    assert {name: split.size for name, split in scan(made).items()} == sizes
    train, val = warnings(caplog)
    assert f"{made}/train: 7 files are ignored: 3 .tif, 2 .jpg in subfolders, " in train
    assert "1 .png outside the class folders" in train and "1 without extension" in train
    assert f"{made}/val: 1 files are ignored: 1 .txt; images are .jpeg, .jpg, .png, " in val


def test_what_operating_systems_leave_behind_is_passed_over(made, caplog):
    expected = scan(made)["train"].names
    for folder in ("__MACOSX", ".Trashes", "@eaDir", ".ipynb_checkpoints"):
        (made / "train" / folder).mkdir()
        (made / "train" / "cat" / folder).mkdir()
        (made / "train" / "cat" / folder / "0.jpg").touch()
    for file in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.jpg"):
        (made / "train" / file).touch()
        (made / "train" / "dog" / file).touch()
    found = scan(made)["train"]
    assert found.names == expected and found.class_names == ("cat", "dog")
    assert not warnings(caplog)


def test_a_class_without_images_says_what_it_has(made):
    cat = made / "train" / "cat"
    for path in cat.iterdir():
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(InputError, match=r"train/cat has no images \(.*, only 3 .tif$"):
        scan(made)
    (cat / "more").mkdir()
    for path in cat.glob("*.tif"):
        path.rename(cat / "more" / f"{path.stem}.jpg")
    with pytest.raises(InputError, match="cat has no images.*cat/more has: images must be in the"):
        scan(made)


def test_a_directory_or_a_pipe_with_the_name_of_an_image_is_named(made):
    path = made / "train" / "cat" / "x.jpg"
    path.mkdir()
    with pytest.raises(InputError, match=r"cat/x.jpg is a directory, but has the name of an imag"):
        scan(made)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"cat/x.jpg is a pipe; it must be a regular file"):
        scan(made)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"cat/x.jpg cannot be read: No such file"):
        scan(made)
    path.unlink()
    path.symlink_to("0.jpg")
    assert scan(made)["train"].size == 7


@pytest.mark.parametrize(
    "data_dir, hint",
    [
        ("made/train", "/made, above it, has train/ and val/: set dataset.data_dir to that"),
        ("made/train/cat", "/made, above it, has train/ and val/"),
        ("made/trian", "/made, above it, has train/ and val/"),
        (".", "/made, below it, has train/ and val/"),
        ("..", "/made, below it, has train/ and val/"),
    ],
)
def test_a_data_directory_on_another_level_is_told(made, data_dir, hint):
    with pytest.raises(InputError, match=f"train: No such file.*expected ROOT.*; [^;]*{hint}"):
        scan(made.parent / data_dir)


def test_other_names_of_the_splits_are_told(made):
    (made / "val").rename(made / "Valid")
    with pytest.raises(InputError, match="val: No such file.*there is Valid/: rename it to val/"):
        scan(made)
    (made / "Valid").rename(made / "val")
    (made / "train").rename(made / "TRAIN")
    with pytest.raises(InputError, match="train: No such file.*there is TRAIN/: rename it to tra"):
        scan(made)
    with pytest.raises(InputError, match="its folders hold images themselves, and must be in tra"):
        scan(made / "TRAIN")
    with pytest.raises(InputError, match=r"No such file[^;]*; expected [^;]*$"):
        scan(made / "TRAIN" / "cat")


def test_a_config_decides_whether_images_are_turned(train, monkeypatch):
    given = []
    for name in ("train_batches", "eval_batches"):
        record = lambda split, **arguments: given.append(arguments["exif_orientation"])  # noqa: E731
        monkeypatch.setattr(folder_pipeline, name, record)
    config = default()
    for value in (False, True):
        config.dataset.exif_orientation = value
        data_batches.train_batches(train, config, first_step=0, num_steps=1)
        data_batches.eval_batches(train, config, batch_size=8)
    assert given == [False, False, True, True]


def test_batches_keep_the_contract(train):
    for batch in batches(train, num_steps=2):
        assert set(batch) == {"image", "label", "mask"}
        assert batch["image"].shape == (8, SIZE, SIZE, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (8,) and batch["label"].dtype == np.int32
        assert batch["mask"].shape == (8,) and batch["mask"].dtype == bool and batch["mask"].all()


def test_batches_write_no_temporary_files(train, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a kill would leave them there
    assert batches(train)
    assert not list(tmp_path.iterdir())


def test_every_epoch_is_another_permutation(train):
    order = joined(batches(numbered(train), num_steps=12), "label")[:90].reshape(3, 30)
    for epoch in order:
        assert sorted(epoch) == list(range(30))
    assert len({tuple(epoch) for epoch in order}) == 3
    labels = joined(batches(train, num_steps=12), "label")[:90]
    np.testing.assert_array_equal(labels, train.labels[order.ravel()])


def test_a_run_can_start_anywhere(train):
    whole = batches(train)
    assert_equal(batches(train, first_step=5), whole[5:])
    assert len(batches(train, first_step=10**9, num_steps=10**9 + 1)) == 1


def test_processes_share_the_same_batches(train):
    whole = batches(train)
    shares = [batches(train, process=p, num_processes=2) for p in range(2)]
    for step, batch in enumerate(whole):
        for name in batch:
            both = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(both, batch[name])


def test_augmentation_follows_the_position_and_the_seed(train):
    images = joined(batches(train), "image")
    np.testing.assert_array_equal(
        images, joined(batches(train, batch_size=16, num_steps=4), "image")
    )
    assert not np.array_equal(images, joined(batches(train, seed=1), "image"))


def draw_windows(height, width, area, count):
    """Draws windows [count, 4] of an image; returns them and their random words [count, 11, 4]."""
    tf = import_tensorflow()
    words = np.random.RandomState(0).randint(0, 2**32, (count, 11, 4), np.uint32)

    def window(random):
        sides = tf.constant(height), tf.constant(width)
        return tf.stack(image_decoding.random_window(*sides, random, area))

    return tf.function(lambda w: tf.map_fn(window, w, tf.int32))(words).numpy(), words


def expected_window(height, width, random, area):
    """torchvision's RandomResizedCrop.get_params, drawing from random words."""
    for row in random[:10].astype(object):
        target = height * width * (area[0] + (area[1] - area[0]) * (row[0] / 2**32))
        ratio = np.exp(np.log(3 / 4) + np.log(16 / 9) * (row[1] / 2**32))
        w, h = round(float(np.sqrt(target * ratio))), round(float(np.sqrt(target / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return row[2] % (height - h + 1), row[3] % (width - w + 1), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    "height, width, area",
    [
        (375, 500, (0.08, 1)),
        (500, 333, (0.35, 1)),
        (40, 300, (0.5, 1)),
        (9, 8, (1, 1)),
        (1, 1, (0.08, 1)),
    ],
)
def test_windows_are_those_of_torchvision(height, width, area):
    windows, words = draw_windows(height, width, area, 200)
    expected = [expected_window(height, width, random, area) for random in words]
    np.testing.assert_array_equal(windows, expected)


def test_windows_are_uniform_in_area_ratio_and_place():
    height = width = 1000
    windows, _ = draw_windows(height, width, (0.1, 0.5), 2000)  # in a square all of these fit
    top, left, h, w = windows.T
    area = (h * w / 1e6 - 0.1) / 0.4
    ratio = np.log(w / h) / np.log(16 / 9) + 0.5
    for values in (area, ratio, top / (height - h), left / (width - w)):
        assert values.min() > -0.01 and values.max() < 1.01
        ranks = np.abs(np.sort(values) - (np.arange(2000) + 0.5) / 2000)
        assert ranks.max() < 1.95 / np.sqrt(2000)  # Kolmogorov-Smirnov at 0.001


@pytest.mark.parametrize("name", ["n01/0", "n01/3", "n01/4", "n02/3", "n02/4"])
def test_decoding_inside_the_crop_equals_cropping_the_whole(train, name):
    """At scale 1 nothing is resampled, so the pixels of all kinds of files must be equal."""
    tf = import_tensorflow()
    index = train.names.index(f"train/{name}.JPEG")
    image = np.asarray(pillow(train, index))
    random = np.random.RandomState(0)
    for _ in range(20):
        top, left = random.randint(image.shape[0] - 15), random.randint(image.shape[1] - 15)
        found = image_decoding.read_image(
            train.path(index),
            lambda *_, top=top, left=left: ((top, left, 16, 16), tf.ones(2), tf.zeros(2)),
            16,
        )
        np.testing.assert_array_equal(found, image[top : top + 16, left : left + 16])


def test_training_images_are_resized_windows_and_their_mirrors(train):
    """Compares with Pillow, on the windows that each position's random words give."""
    tf = import_tensorflow()
    split, key = numbered(train), stream_key(0, "augment")
    found = batches(split, num_steps=8)
    mirrored = 0
    rows = zip(joined(found, "image"), joined(found, "label"), strict=True)
    for position, (image, label) in enumerate(rows):
        whole = pillow(split, label)
        words = random_words(tf.range(11, dtype=tf.int64) + 11 * position, key)
        top, left, h, w = expected_window(whole.height, whole.width, words.numpy(), (0.08, 1.0))
        crop = whole.crop((left, top, left + w, top + h))
        expected = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        plain, mirror = levels(image, expected), levels(image[:, ::-1], expected)
        assert min(plain, mirror) <= 2
        mirrored += mirror < plain
    assert 16 <= mirrored <= 48  # of 64; outside with probability 0.0001
    unmirrored = joined(batches(split, horizontal_flip=False), "image")
    same = (unmirrored == joined(found, "image")).all((1, 2, 3))
    assert same.sum() == 64 - mirrored


@pytest.mark.parametrize("image_size, resize", [(24, None), (32, 32), (30, 61), (200, 230)])
def test_evaluation_is_the_centre_of_the_resized_image(train, image_size, resize):
    found = list(eval_batches(train, image_size=image_size, batch_size=30, resize=resize))
    resize = resize or 27
    for index, image in enumerate(found[0]["image"]):
        whole = pillow(train, index)
        short = min(whole.size)
        width, height = (int(resize * side / short) for side in whole.size)
        whole = whole.resize((width, height), Image.Resampling.BILINEAR)
        top, left = round((height - image_size) / 2), round((width - image_size) / 2)
        expected = whole.crop((left, top, left + image_size, top + image_size))
        assert levels(image, expected) <= 2


@pytest.mark.parametrize("batch_size, processes", [(1, 1), (15, 1), (8, 2), (12, 4)])
def test_evaluation_sees_every_example_once(root, batch_size, processes):
    split = numbered(scan(root)["test"])
    shares = [
        list(
            eval_batches(
                split, image_size=SIZE, batch_size=batch_size, process=p, num_processes=processes
            )
        )
        for p in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = []
    for share in shares:
        for batch in share:
            assert batch["image"].shape == (batch_size // processes, SIZE, SIZE, 3)
            assert not batch["image"][~batch["mask"]].any()
            seen += batch["label"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(15))


def test_a_bad_image_is_an_error_that_names_it(with_bad_images):
    with pytest.raises(
        InputError, match=r"/val/n02/1.JPEG cannot be decoded.*--config.dataset.on_bad_image=skip$"
    ):
        list(eval_batches(with_bad_images["test"], image_size=SIZE, batch_size=4))
    with pytest.raises(InputError, match=r"/train/(n02/1|n03/7).JPEG cannot be decoded"):
        batches(with_bad_images["train"])


def test_bad_images_are_skipped_and_counted(train, with_bad_images):
    split = numbered(with_bad_images["train"])
    found = batches(split, batch_size=15, num_steps=4, on_bad_image="skip")  # two epochs
    whole = batches(numbered(train), batch_size=15, num_steps=4)
    mask, labels = joined(found, "mask"), joined(found, "label")
    bad = [split.names.index(f"train/{name}.JPEG") for name in ("n02/1", "n03/7")]
    replaced, whole_labels = joined(found, "replaced"), joined(whole, "label")
    assert mask.all() and sorted(whole_labels[replaced]) == sorted(2 * bad)
    assert not np.isin(labels, bad).any()
    # Everything else is unaffected.
    np.testing.assert_array_equal(labels[~replaced], whole_labels[~replaced])
    np.testing.assert_array_equal(
        joined(found, "image")[~replaced], joined(whole, "image")[~replaced]
    )

    test = with_bad_images["test"]
    found = list(eval_batches(test, image_size=SIZE, batch_size=4, on_bad_image="skip"))
    assert joined(found, "mask").sum() == test.size - 1


def test_a_missing_file_is_never_skipped(with_bad_images):
    split = with_bad_images["test"].subset(np.array([0, 1]))
    found = eval_batches(split, image_size=SIZE, batch_size=2, on_bad_image="skip")
    shutil.rmtree(f"{split.root}/val/n01")
    with pytest.raises(InputError, match=r"/val/n01/0.JPEG cannot be read: No such file"):
        next(found)


def test_invalid_arguments_are_errors(train):
    with pytest.raises(InputError, match="unknown on_bad_image 'skp'.*Did you mean 'skip'"):
        batches(train, on_bad_image="skp")
    with pytest.raises(InputError, match="resize = 20 is below image_size = 24"):
        eval_batches(train, image_size=SIZE, batch_size=1, resize=20)


@pytest.mark.usefixtures("tiny")
def test_a_resumed_run_counts_skipped_images_alike(with_bad_images, tmp_path, caplog, capsys):
    """Two of 30 training images and one of 15 test images are bad; two epochs, in 6 steps of 10."""
    config = default()
    config.dataset.name, config.dataset.data_dir = "image_folder", with_bad_images["train"].root
    config.dataset.image_size, config.dataset.on_bad_image = SIZE, "skip"
    config.model.name, config.eval.batch_size = "tiny", 8
    config.train.num_steps, config.train.batch_size = 6, 10
    config.log.every_steps, config.log.tensorboard = 2, False
    config.eval.every_steps = 6
    config.checkpoint.every_steps, config.checkpoint.keep_every_steps = 3, 3
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    results = training.train(config, unbroken)
    assert results["test"]["skipped"] == 1
    assert "1 images skipped" in capsys.readouterr().out
    named = [record.getMessage() for record in caplog.records if "skipped" in record.message]
    assert len(named) == len(set(named)) == 3
    assert any(f"{with_bad_images['train'].root}/train/n03/7.JPEG" in line for line in named)

    # The state after step 3, in the middle of a log interval.
    shutil.copytree(unbroken, broken)
    shutil.rmtree(broken / "checkpoints" / "6")
    training.train(config, broken)
    tables = []
    for workdir in (unbroken, broken):
        with (workdir / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([[r[k] for k in ("step", "split", "loss", "skipped")] for r in rows])
    assert tables[0] == tables[1]
    skipped = [int(row[3] or 0) for row in tables[0] if row[1] == "train"]
    assert len(skipped) == 3 and sum(skipped) == 4
