"""Facts about the data sets the zoo is measured on: classes, image form, normalisation constants."""

from dataclasses import dataclass

from ..errors import UnknownNameError

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905
)
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

STAND_IN = (
    "To try Fashion-MNIST in place of MNIST, say so: zoo train ... --set dataset=fashion-mnist, zoo validate ... "
    "--dataset fashion-mnist; results then carry that name."
)


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        name: The word for it on the command line.
        suffix: The last part of the tags of weights trained on it (``zoo_fmnist``).
        num_classes: Number of classes.
        input_size: (channels, height, width) of an image; for ImageNet the usual crop.
        mean: Per-channel mean of the training images, pixels scaled to [0, 1].
        std: Per-channel standard deviation of the training images, pixels scaled to [0, 1].
        classes: Class names in label order; empty where the list is long and not needed here.
        licence: Terms of the data, for model cards.
        crop_pct: Side of the centre crop over the side the image was resized to.
    """

    name: str
    suffix: str
    num_classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    licence: str = ""
    crop_pct: float = 1.0


DATASETS = {
    d.name: d
    for d in (
        Dataset("mnist", "mnist", 10, (1, 28, 28), (0.1307,), (0.3081,), tuple("0123456789"), "CC BY-SA 3.0"),
        Dataset("fashion-mnist", "fmnist", 10, (1, 28, 28), (0.2860,), (0.3530,), _FASHION, "MIT"),
        Dataset(
            "cifar10",
            "c10",
            10,
            (3, 32, 32),
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
            _CIFAR10,
            "no licence stated by its authors",
        ),
        Dataset(
            "cifar100",
            "c100",
            100,
            (3, 32, 32),
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
            _CIFAR100,
            "no licence stated by its authors",
        ),
        Dataset(
            "imagenet",
            "in1k",
            1000,
            (3, 224, 224),
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            (),
            "ImageNet terms: non-commercial research",
            0.875,
        ),
    )
}


def get_dataset(name: str) -> Dataset:
    """Look a data set up by its name or tag suffix.

    Args:
        name: One of :data:`DATASETS`, or its suffix: ``mnist``, ``fmnist``, ``c10``, ``c100``, ``in1k``.

    Raises:
        UnknownNameError: If there is no such data set.
    """
    for dataset in DATASETS.values():
        if name in (dataset.name, dataset.suffix):
            return dataset
    raise UnknownNameError(f"Unknown data set {name!r}: choose one of {', '.join(DATASETS)}.")
