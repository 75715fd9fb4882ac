"""The errors a user can cause or meet; each message is one line that says what to do next.

What servers and files say goes into messages, so each is made one line that a terminal can print, and passwords and
tokens are taken out, whoever writes it.
"""

import os
import re

_SECRETS = re.compile(
    r"(?<=://)[^\s/?#'\"]*@"  # user:password@
    r"|(?<=://)[^\s/?#@:]*:(?!\d+([/?#\s]|$))\S*@"  # the same with a password that should have been quoted
    r"|(?<=Bearer )[^\s'\"]+"
    r"|hf_[A-Za-z0-9]{8,}"
)


def printable(text: object) -> str:
    """A path or message with everything escaped that a terminal cannot print: control characters, undecodable bytes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def without_secrets(text: str) -> str:
    """A text without the user names and passwords of addresses and without Hub tokens."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if len(token := os.environ.get(variable, "").strip()) > 3:
            text = text.replace(token, "***").replace(repr(token)[1:-1], "***")
    return _SECRETS.sub("", text)


class ZooError(RuntimeError):
    """Base of every error this package raises on purpose; the command line prints it and exits with 1."""

    def __init__(self, message: object = ""):
        super().__init__(printable(without_secrets(str(message))))


class UnknownNameError(ZooError):
    """A model, tag, family, data set or argument that does not exist; the message lists what does."""


class WeightError(ZooError):
    """A weight that could not be obtained, read or fitted to its model."""


class HashMismatchError(WeightError):
    """Bytes whose sha256 is not the manifest's; they are never loaded."""


class DataError(ZooError):
    """A data set or image that is missing or damaged."""
