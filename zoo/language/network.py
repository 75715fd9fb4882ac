"""SymmLSTM and SymmGRU: recurrent layers whose gates have symmetric weight matrices, and a word language model.

Paper: S. X. Hu, S. Zagoruyko, N. Komodakis, "Exploring Weight Symmetry in Deep Neural Networks", Computer Vision and
Image Understanding 187, 2019, https://arxiv.org/abs/1812.11027; code: https://github.com/hushell/deep-symmetry. The
paper's code makes the matrices anew at every time step; here they are made once per call.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WeightError, ZooError
from ..makers.symmetric import SymmetricGates
from ..models._reference import register_reference
from ..precision import full_precision

__all__ = ["SequenceOutput", "SymmGRU", "SymmLSTM", "SymmRNNLanguageModel"]

_TYPES = ("wwt", "tri", "quar", "eight")


class _SymmRNN(nn.Module):
    """What both cells have in common: parameters under torch's names, and the plain layer they stand for.

    A matrix with symmetric gates is stored as one row, which its maker (in ``makers``) reads. It has two axes because
    optimizers take tensors of one axis for biases, which get no weight decay.
    """

    plain_class: type[nn.RNNBase]
    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        symm_type: str = "wwt",
        symm_hh: str | None = None,
        symm_ih: str | None = None,
        odd_centre: str = "single",
    ):
        super().__init__()
        if symm_type not in _TYPES:
            raise ZooError(
                f"Unknown symmetry type {symm_type!r} of a recurrent layer: choose one of {', '.join(_TYPES)}."
            )
        if min(input_size, hidden_size, num_layers) < 1:
            raise ZooError("input_size, hidden_size and num_layers must be at least 1.")
        symm_hh = self._check_flags("symm_hh", "1" * self.gates if symm_hh is None else symm_hh)
        symm_ih = self._check_flags("symm_ih", "0" * self.gates if symm_ih is None else symm_ih)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.symm_type, self.symm_hh, self.symm_ih = symm_type, symm_hh, symm_ih
        self.makers = nn.ModuleDict()
        self.names: list[str] = []
        directions = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            columns = input_size if layer == 0 else hidden_size * len(directions)
            if "1" in symm_ih and columns != hidden_size:
                raise ZooError(
                    f"symm_ih {symm_ih!r} needs an input as wide as the hidden state in every layer, but layer {layer} "
                    f"has {columns} inputs and {hidden_size} hidden units: use symm_ih {'0' * self.gates!r}."
                )
            for suffix in directions:
                for side, width, flags in (("ih", columns, symm_ih), ("hh", hidden_size, symm_hh)):
                    name = f"weight_{side}_l{layer}{suffix}"
                    self.names.append(name)
                    if "1" in flags:
                        maker = SymmetricGates(hidden_size, width, flags, symm_type, odd_centre)
                        self.makers[name] = maker
                        self.register_parameter(name, nn.Parameter(torch.empty(1, sum(maker.sizes))))
                    else:
                        self.register_parameter(name, nn.Parameter(torch.empty(self.gates * hidden_size, width)))
                for side in ("ih", "hh") if bias else ():
                    name = f"bias_{side}_l{layer}{suffix}"
                    self.names.append(name)
                    self.register_parameter(name, nn.Parameter(torch.empty(self.gates * hidden_size)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(hidden_size); of symmetric matrices the canonical region is drawn so."""
        bound = self.hidden_size**-0.5
        for name, parameter in self.named_parameters():
            if name in self.makers:
                maker = self.makers[name]
                parameter[0] = maker.select(parameter.new_empty(maker.shape).uniform_(-bound, bound))
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def weights(self) -> dict[str, Tensor]:
        """The tensors that torch's layer has, under its names, made from what is learned."""
        learned = {name: getattr(self, name) for name in self.names}
        return {name: self.makers[name](value[0]) if name in self.makers else value for name, value in learned.items()}

    def fuse(self) -> nn.RNNBase:
        """A plain ``nn.LSTM`` or ``nn.GRU`` with the made matrices as its own parameters; this layer stays as it is."""
        first = getattr(self, self.names[0])
        plain = self.plain_class(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.batch_first,
            self.dropout,
            self.bidirectional,
            device=first.device,
            dtype=first.dtype,
        )
        with full_precision():
            for name, tensor in self.weights().items():
                getattr(plain, name).copy_(tensor).requires_grad_(getattr(self, name).requires_grad)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, symm_type={self.symm_type!r}, "
            f"symm_hh={self.symm_hh!r}, symm_ih={self.symm_ih!r}"
        )

    @classmethod
    def _check_flags(cls, name: str, flags: str) -> str:
        if not isinstance(flags, str) or len(flags) != cls.gates or set(flags) - {"0", "1"}:
            raise ZooError(
                f"{name} {flags!r} must be {cls.gates} characters 0 or 1, one per gate, as {'1' * cls.gates!r}."
            )
        return flags

    def _zero_state(self, x: Tensor) -> Tensor:
        batch = x.shape[0 if self.batch_first else 1]
        return x.new_zeros(self.num_layers * (2 if self.bidirectional else 1), batch, self.hidden_size)

    def _options(self) -> tuple[bool, int, float, bool, bool, bool]:
        return self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, self.batch_first


class SymmLSTM(_SymmRNN):
    """``torch.nn.LSTM`` with symmetric gate matrices.

    Args:
        input_size: Features of the input.
        hidden_size: Features of the hidden state.
        num_layers: Layers.
        bias: Have biases.
        batch_first: Input and output are (batch, time, features) instead of (time, batch, features).
        dropout: Dropout between the layers.
        bidirectional: Run a second direction.
        symm_type: ``wwt``, ``tri`` (the same function, see ``zoo.makers.symmetric``), ``quar`` or ``eight``.
        symm_hh: Which gates (i, f, g, o) are symmetric on the hidden side, a string of four 0 or 1.
        symm_ih: The same for the input side; only where every layer's input is as wide as the hidden state.
        odd_centre: ``single``, or ``reference`` for the authors' doubled values with an odd ``hidden_size``.

    Raises:
        ZooError: If an argument does not exist or does not fit.
    """

    plain_class, gates = nn.LSTM, 4

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(time, batch, input_size) -> (time, batch, hidden_size), and the last hidden and cell state.

        Args:
            x: Sequence.
            hx: Hidden and cell state, each (layers * directions, batch, hidden_size); zeros if None.
        """
        if hx is None:
            hx = (self._zero_state(x), self._zero_state(x))
        output, hidden, cell = torch.lstm(x, hx, list(self.weights().values()), *self._options())
        return output, (hidden, cell)


class SymmGRU(_SymmRNN):
    """``torch.nn.GRU`` with symmetric gate matrices; arguments as :class:`SymmLSTM`, with three gates r, z, n."""

    plain_class, gates = nn.GRU, 3

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(time, batch, input_size) -> (time, batch, hidden_size), and the last hidden state."""
        return torch.gru(x, self._zero_state(x) if hx is None else hx, list(self.weights().values()), *self._options())


_CELLS = {"lstm": SymmLSTM, "gru": SymmGRU}


class SymmRNNLanguageModel(nn.Module):
    """Word language model: embedding, dropout, symmetric recurrent layers, dropout, linear decoder.

    Args:
        vocabulary: Number of words.
        embedding_size: Width of the embedding.
        hidden_size: Width of the hidden state.
        num_layers: Recurrent layers.
        cell: ``lstm`` or ``gru``.
        dropout: Dropout after the embedding, between the recurrent layers and after them.
        tied: Use the embedding as the decoder's matrix; both widths must agree.
        symm_type: As in :class:`SymmLSTM`.
        symm_hh: As in :class:`SymmLSTM`.
        symm_ih: As in :class:`SymmLSTM`.

    Raises:
        ZooError: If an argument does not exist or does not fit.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int = 650,
        hidden_size: int = 650,
        num_layers: int = 2,
        cell: str = "lstm",
        dropout: float = 0.5,
        tied: bool = False,
        symm_type: str = "wwt",
        symm_hh: str | None = None,
        symm_ih: str | None = None,
    ):
        super().__init__()
        if cell not in _CELLS:
            raise ZooError(f"Unknown cell {cell!r}: choose one of {', '.join(_CELLS)}.")
        if tied and embedding_size != hidden_size:
            raise ZooError(
                f"A tied decoder needs equal widths, not embedding {embedding_size} and hidden {hidden_size}."
            )
        self.encoder = nn.Embedding(vocabulary, embedding_size)
        self.drop = nn.Dropout(dropout)
        self.rnn = _CELLS[cell](
            embedding_size,
            hidden_size,
            num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            symm_type=symm_type,
            symm_hh=symm_hh,
            symm_ih=symm_ih,
        )
        self.decoder_weight = None if tied else nn.Parameter(torch.empty(vocabulary, hidden_size))
        self.decoder_bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        if not tied:
            nn.init.uniform_(self.decoder_weight, -0.1, 0.1)

    def forward(self, words: Tensor, state=None) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Score the next word at every position.

        Args:
            words: Word numbers, (time, batch).
            state: State that an earlier call returned, or None to start from zeros.

        Returns:
            Scores (time, batch, vocabulary), and the state after the last word.
        """
        output, state = self.rnn(self.drop(self.encoder(words)), state)
        weight = self.encoder.weight if self.decoder_weight is None else self.decoder_weight
        return F.linear(self.drop(output), weight, self.decoder_bias), state


class SequenceOutput(nn.Module):
    """A recurrent layer reduced to its output sequence, the form in which the reference is compared.

    Args:
        rnn: Recurrent layer.
    """

    def __init__(self, rnn: nn.Module):
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        """(time, batch, features) -> (time, batch, hidden_size)."""
        return self.rnn(x)[0]

    @staticmethod
    def reference_key(name: str) -> str:
        """The name that hushell/deep-symmetry gives an entry of the state dict: torch's own."""
        return name.removeprefix("rnn.")

    def reference_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take from full matrices what is learned here.

        Raises:
            WeightError: If such a matrix is missing or has another shape; the message names it.
        """
        state = dict(state)
        for name, maker in getattr(self.rnn, "makers", {}).items():
            if name not in state:
                raise WeightError(f"This state dict has no {name}.")
            if state[name].shape != maker.shape:
                raise WeightError(f"{name} has the shape {tuple(state[name].shape)} instead of {maker.shape}.")
            state[name] = maker.select(state[name])[None]
        return state


def _reference(cls: type[_SymmRNN]):
    def create(**args) -> SequenceOutput:
        return SequenceOutput(cls(**args, odd_centre="reference"))

    options = {"bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
    sizes = {"input_size": 650, "hidden_size": 650, "num_layers": 1}
    flags = {"symm_type": "wwt", "symm_hh": "1" * cls.gates, "symm_ih": "0" * cls.gates}
    register_reference("symmetry", f"symm_{cls.plain_class.__name__.lower()}", create, **sizes, **options, **flags)


_reference(SymmLSTM)
_reference(SymmGRU)
