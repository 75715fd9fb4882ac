"""Buffers of whole numbers, masks and indices, that may be copied but have no average.

``torch.optim.swa_utils.AveragedModel(use_buffers=True)``, and torchvision's exponential moving average with it,
averages every buffer. The mean of masks is then their union, and that of an index is rounded down: a wrong network
without an error. Such a buffer therefore has a fingerprint beside it, which is averaged or copied along: numbers
(r, r^2) no longer have this form once they are the mean of different ones.

``timm.utils.ModelEmaV2`` averages what is in the state dict, where the fingerprint is not, so that the keys of a
network stay its own. It is told by what it does: a mask that was not lent to anybody (:meth:`WholeNumbers.lend`) has
gained entries and lost none, or an index has changed. What cannot be told from a copy is the union of a mask with one
that it contains, since that changes nothing: an average of a network that is being pruned stays as dense as it began.
"""

import torch
from torch import Tensor, nn

from ..errors import ZooError
from . import values

_PRIME = 65_521


class WholeNumbers(nn.Module):
    """A maker with one such buffer, read through :meth:`whole`.

    All is compared only when torch's version counters say that somebody wrote to the tensors. In-place changes of a
    buffer that was lent, which is how sparsity moves, are taken as they are.
    """

    _lent = 0  # id of the lent tensor: a deep copy's was not

    constant = False
    """Nothing but loading changes the buffer."""

    def _register_whole(self, name: str, tensor: Tensor) -> None:
        self._name = name
        self._buffers[name] = tensor
        self.register_buffer("fingerprint", None, persistent=False)
        self._note()

    def whole(self) -> Tensor:
        """The buffer.

        Raises:
            ZooError: If it is the average of different ones.
        """
        tensor, fingerprint = self._buffers[self._name], self._buffers["fingerprint"]
        if torch.compiler.is_compiling() or tensor is not self._seen[0] or tensor.is_inference() or tensor.is_meta:
            return tensor  # what torch puts in its place for a while is none of an average's doing
        if (tensor._version, fingerprint._version) != self._seen[1:]:
            if self._averaged(tensor, fingerprint):
                raise ZooError(
                    f"The {self._name} of a layer was averaged with others, which has no meaning: average with "
                    "use_buffers=False, which copies it (torch.optim.swa_utils), or with timm.utils.ModelEmaV3; and "
                    "copy one by load_state_dict."
                )
            self._note()
        return tensor

    def lend(self) -> Tensor:
        """The buffer, for whoever may write to it."""
        tensor = self.whole()
        self._lent = id(tensor)
        return tensor

    def _averaged(self, tensor: Tensor, fingerprint: Tensor) -> bool:
        if values.to_come():
            return False  # nothing that is known was there to be averaged
        written = fingerprint._version != self._seen[2]
        if written or self.constant:
            first, square = fingerprint.tolist()
            own = float(_fingerprint(tensor)[0])
            return abs(first * first - square) > 1e-6 or (self.constant and abs(first - own) > 1e-6)
        before = self._before
        return self._lent != id(tensor) and not before.equal(tensor) and bool((tensor | ~before).all())

    def init_non_persistent_buffers(self) -> None:
        """Make the fingerprint anew, for whoever builds a network without values (timm's protocol)."""
        self._note()

    @torch.no_grad()
    def _note(self) -> None:
        """Take the buffer as it is."""
        tensor = self._buffers[self._name]
        with torch.inference_mode(False):  # tensors of inference mode count no versions
            fingerprint = torch.zeros(2) if values.to_come() else _fingerprint(tensor)  # of what is loaded then
            self._buffers["fingerprint"] = fingerprint
        versions = (0, 0) if tensor.is_inference() else (tensor._version, fingerprint._version)
        self._seen = (tensor, *versions)
        self._before = None if self.constant else tensor.clone()

    def _apply(self, fn, recurse=True):
        self.whole()
        self._buffers["fingerprint"] = None  # made anew, in its own type and from whatever is there then
        super()._apply(fn, recurse)
        self._note()
        return self

    def __getstate__(self) -> dict:
        """For pickle and deep copies, which then take over what is known of the buffer."""
        self.whole()
        return vars(self)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        self.whole()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self._note()


def _fingerprint(tensor: Tensor) -> Tensor:
    """(r, r^2), float32, with r from 0 to 1 and as good as different for different tensors."""
    values = tensor.detach().flatten().to(torch.int64)
    places = torch.arange(1, values.numel() + 1, device=values.device) * 40_503 % _PRIME
    r = ((values * places).sum() % _PRIME).to(torch.float32) / _PRIME
    return torch.stack([r, r * r])
