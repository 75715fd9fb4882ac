"""The errors a user can cause or meet; each message is one line that says what to do next."""


class ZooError(RuntimeError):
    """Base of every error this package raises on purpose; the command line prints it and exits with 1."""


class UnknownNameError(ZooError):
    """A model, tag, family, data set or argument that does not exist; the message lists what does."""


class WeightError(ZooError):
    """A weight that could not be obtained, read or fitted to its model."""


class HashMismatchError(WeightError):
    """Bytes whose sha256 is not the manifest's; they are never loaded."""


class DataError(ZooError):
    """A data set or image that is missing or damaged."""
