"""Hashes of many files: what each kind notices."""

import hashlib

import pytest

from jaxcifar.data.file_hashes import KINDS, hash_files

NAMES = tuple(f"train/{i}.bmp" for i in range(150))


@pytest.fixture
def root(tmp_path):
    """150 files, the first of 100 kB and the others of 10 to 159 bytes."""
    (tmp_path / "train").mkdir()
    for i, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([i]) * (10 + i if i else 100_000))
    return tmp_path


def hashes(root, names=NAMES):
    return {kind: hash_files(str(root), names, kind) for kind in KINDS}


def test_names_and_sizes_have_the_hash_that_older_runs_recorded(root):
    lines = "".join(f"{n}\0{(root / n).stat().st_size}\n" for n in NAMES)
    assert hashes(root)["names"] == hashlib.sha256(lines.encode()).hexdigest()


def test_all_kinds_notice_names_sizes_order_and_number(root):
    before = hashes(root)
    assert hashes(root) == before and len(set(before.values())) == len(KINDS)
    (root / "train" / "x.bmp").write_bytes((root / NAMES[7]).read_bytes())
    others = [NAMES[::-1], NAMES[:-1], (*NAMES[:7], "train/x.bmp", *NAMES[8:])]
    found = [hashes(root, names) for names in others]
    with (root / NAMES[100]).open("ab") as file:
        file.write(b"x")
    for other in [*found, hashes(root)]:
        assert not other.items() & before.items()


@pytest.mark.parametrize(
    "name, place, noticed_by",
    [
        (NAMES[0], 50_000, {"sample", "contents"}),
        (NAMES[0], 0, {"contents"}),
        (NAMES[0], -1, {"contents"}),
        (NAMES[149], 0, {"sample", "contents"}),  # a small file is read as a whole
        (NAMES[149], -1, {"sample", "contents"}),
    ],
)
def test_a_changed_byte_is_noticed_where_it_is_read(root, name, place, noticed_by):
    before = hashes(root)
    contents = bytearray((root / name).read_bytes())
    contents[place] ^= 1
    (root / name).write_bytes(contents)
    after = hashes(root)
    assert {kind for kind in KINDS if before[kind] != after[kind]} == noticed_by


def test_a_missing_file_is_named(root):
    (root / NAMES[70]).unlink()
    for kind in KINDS:
        with pytest.raises(FileNotFoundError, match=NAMES[70]):
            hash_files(str(root), NAMES, kind)
