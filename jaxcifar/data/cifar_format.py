"""The published CIFAR data sets: their files, hashes and class names."""

import dataclasses
from collections.abc import Mapping

IMAGE_BYTES = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Labels:
    """One kind of label that each image has.

    Attributes:
      key: name of the labels in TFDS and in our arrays.
      class_names: name of each class.
      names_file: text file of the binary version with one class name per line.
      python_key: key of the labels in the pickles of the Python version.
      python_names_key: key of the class names in its meta file.
    """

    key: str
    class_names: tuple[str, ...]
    names_file: str
    python_key: str
    python_names_key: str


@dataclasses.dataclass(frozen=True)
class CifarFormat:
    """The official binary version of a data set, and what the Python version calls its parts.

    Attributes:
      name: the TFDS name, which is `dataset.name` in a config.
      archives: file names of the official archives: binary, then Python version.
      folders: the only folder in each of these archives.
      records: number of records in each image file; the last file has the test images.
      sha256: SHA-256 of each image file.
      labels: the label bytes at the start of each record, in their order. The image follows, one
        channel after another.
      python_meta: file of the Python version that holds the class names. Its image files are
        called like those of the binary version, without ".bin".
      arrays_sha256: SHA-256 of the images and labels as arrays, see `cifar.digest`.
    """

    name: str
    archives: tuple[str, str]
    folders: tuple[str, str]
    records: Mapping[str, int]
    sha256: Mapping[str, str]
    labels: tuple[Labels, ...]
    python_meta: str
    arrays_sha256: str

    @property
    def record_bytes(self) -> int:
        """The size of a record."""
        return len(self.labels) + IMAGE_BYTES

    def python_file(self, name: str) -> str:
        """The name that an image file of the binary version has in the Python version."""
        return name.removesuffix(".bin")


CIFAR10 = CifarFormat(
    name="cifar10",
    archives=("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"),
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    records={
        "data_batch_1.bin": 10_000,
        "data_batch_2.bin": 10_000,
        "data_batch_3.bin": 10_000,
        "data_batch_4.bin": 10_000,
        "data_batch_5.bin": 10_000,
        "test_batch.bin": 10_000,
    },
    sha256={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    labels=(
        Labels(
            "label",
            (
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            names_file="batches.meta.txt",
            python_key="labels",
            python_names_key="label_names",
        ),
    ),
    python_meta="batches.meta",
    arrays_sha256="0048ba43616a7dd4717bc9adf55471fe3eb911c725387574abb8a98fa07ea7d8",
)

_COARSE_CLASSES = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables
household_electrical_devices household_furniture insects large_carnivores
large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
vehicles_2
"""

_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = CifarFormat(
    name="cifar100",
    archives=("cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"),
    folders=("cifar-100-binary", "cifar-100-python"),
    records={"train.bin": 50_000, "test.bin": 10_000},
    sha256={
        "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
        "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
    },
    labels=(
        Labels(
            "coarse_label",
            tuple(_COARSE_CLASSES.split()),
            names_file="coarse_label_names.txt",
            python_key="coarse_labels",
            python_names_key="coarse_label_names",
        ),
        Labels(
            "label",
            tuple(_FINE_CLASSES.split()),
            names_file="fine_label_names.txt",
            python_key="fine_labels",
            python_names_key="fine_label_names",
        ),
    ),
    python_meta="meta",
    arrays_sha256="7ec82fa16826e32e7e9ab2e2f434b391f68bfdef90cf339320a622fdf01f2a8a",
)

FORMATS = (CIFAR10, CIFAR100)
