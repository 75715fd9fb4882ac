"""Facts about the text data sets that language models are measured on."""

import logging
from collections.abc import Mapping, Sized
from dataclasses import dataclass

from ..errors import UnknownNameError

SPLITS = ("train", "valid", "test")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextDataset:
    """One text data set.

    Attributes:
        name: The word for it in recipes and on the command line.
        suffix: The last part of the tags of weights trained on it.
        title: Its full name.
        vocabulary: Different words of the three splits, ``<eos>`` counted.
        tokens: Words of the train, validation and test split, one ``<eos>`` per line counted.
        licence: Terms of the text.
    """

    name: str
    suffix: str
    title: str
    vocabulary: int
    tokens: tuple[int, int, int]
    licence: str

    def check_size(self, splits: Mapping[str, Sized]) -> bool:
        """Whether these splits have the known number of words; if not, a warning says so.

        Args:
            splits: Word numbers by ``train``, ``valid`` or ``test``.
        """
        same = True
        for split, known in zip(SPLITS, self.tokens, strict=True):
            if split in splits and len(splits[split]) != known:
                same = False
                found = f"{len(splits[split]):,} words, that of {self.title} has {known:,}"
                _LOGGER.warning(f"The {split} split has {found}: figures do not compare with published ones.")
        return same


TEXT_DATASETS = {
    d.name: d
    for d in (
        TextDataset("wikitext-2", "wt2", "WikiText-2", 33_278, (2_088_628, 217_646, 245_569), "CC BY-SA 3.0"),
        TextDataset(
            "ptb",
            "ptb",
            "Penn Treebank, Mikolov's preparation",
            10_000,
            (929_589, 73_760, 82_430),
            "Linguistic Data Consortium: members or bought licence, not to be passed on",
        ),
    )
}


def get_text_dataset(name: str) -> TextDataset:
    """Look a text data set up by its name or tag suffix.

    Raises:
        UnknownNameError: If there is no such data set.
    """
    for dataset in TEXT_DATASETS.values():
        if name in (dataset.name, dataset.suffix):
            return dataset
    raise UnknownNameError(f"Unknown text data set {name!r}: choose one of {', '.join(TEXT_DATASETS)}.")
