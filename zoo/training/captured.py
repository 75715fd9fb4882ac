"""Steps on a GPU as replays of one CUDA graph: forward, loss, backward, optimizer, average and the tally of losses.

What decides a step on the host (rates, mixup, the order of images) is done before it, as in a plain step, and copied to
the tensors that the graph reads. Steps that are not like the others are plain ones in between: the first few, which the
capture needs; a smaller last batch; those with which weights move or the momentum restarts. A tensor that one of these
put elsewhere is noticed, and the step is captured again.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .learner import Learner
from .tally import Tally

WARM_UP = 3
"""Plain steps before the capture, in which libraries choose their kernels and the optimizer makes its state."""

OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Those whose fused form takes its rate from a tensor."""

_LOGGER = logging.getLogger(__name__)


def stepper(
    learner: Learner, tally: Tally, images: int, say: Callable[[str], None] = _LOGGER.warning
) -> Callable[..., None]:
    """How a run takes its steps: captured where that is possible, else as they are, with a line that says why.

    Args:
        learner: Of the run.
        tally: Gets the losses.
        images: In the training set.
        say: Gets the line.

    Returns:
        A function with the arguments of :meth:`Learner.step`, all of them given.
    """

    def plain(*step: object) -> None:
        tally.add(learner.step(*step))

    if learner.processes.device.type != "cuda":
        return plain
    name, rest = learner.recipe.weight, images % learner.recipe.batch_size
    if reason := obstacle(learner):
        say(f"{name}: steps are not captured in a CUDA graph, for {reason}; the run is slower.")
        return plain
    if rest:
        say(f"{name}: the last step of an epoch, of {rest} images, is not captured in the CUDA graph.")
    return Captured(learner, tally, say=say)


def obstacle(learner: Learner) -> str:
    """Why a run's steps cannot be captured; empty if they can."""
    if learner.processes.world > 1:
        return "several processes share each one"
    if learner.recipe.amp == "float16":
        return "float16 scales the loss on the host (bfloat16 does not)"
    if learner.recipe.method == "deepr":
        return "deepr moves weights in every one"
    if type(learner.optimizer) not in OPTIMIZERS:
        known = ", ".join(cls.__name__ for cls in OPTIMIZERS)
        return f"the optimizer {type(learner.optimizer).__name__} cannot be (those that can: {known})"
    return ""


class Captured:
    """Takes a learner's steps; the calls are those of :meth:`Learner.step`.

    Args:
        learner: Of the run.
        tally: Gets the losses.
        capture: False runs the same code without a graph, on any device.
        say: Gets a line if the capture fails.
    """

    def __init__(
        self, learner: Learner, tally: Tally, capture: bool = True, say: Callable[[str], None] = _LOGGER.warning
    ):
        self.learner, self.tally, self.capture, self.say = learner, tally, capture, say
        self.plain = WARM_UP if capture else 0  # steps to come that are not captured
        self.graph: torch.cuda.CUDAGraph | None = None
        self.images: Tensor | None = None
        self.targets: Tensor | None = None
        device = learner.processes.device
        self.rates = [torch.zeros((), device=device) for _ in learner.optimizer.param_groups]
        self.places: list[int] = []
        self.doubtful = True  # whether some tensor may lie elsewhere by now

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int, count: int) -> None:
        """Take one step."""
        learner = self.learner
        self.doubtful = self.doubtful or step == 0
        if self.plain or len(labels) != learner.recipe.batch_size or learner.moves(epoch, step):
            self.plain, self.doubtful = max(self.plain - 1, 0), True
            self.tally.add(learner.step(images, labels, epoch, step, count))
            return
        images, targets = learner.prepare(images, labels, epoch, step, count)
        if self.images is None:
            self.images, self.targets = torch.empty_like(images), torch.empty_like(targets)
        self.images.copy_(images)
        self.targets.copy_(targets)
        for rate, group in zip(self.rates, learner.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if self.doubtful:
            self._look_again(epoch, step)
        if self.plain:  # the capture has failed
            self.tally.add(learner.update(images, targets, epoch, step, count))
            learner.average()
        elif self.graph is not None:
            self.graph.replay()
        else:
            self._run(epoch, step)
        learner.move(epoch, step)  # it only counts, for weights move with plain steps alone

    def _run(self, epoch: int, step: int) -> None:
        with self._fused():
            loss = self.learner.update(self.images, self.targets, epoch, step, len(self.targets))
        self.learner.average()
        self.tally.add(loss)

    def _look_again(self, epoch: int, step: int) -> None:
        """Capture the step if that has not been done yet, or something that it uses lies elsewhere since."""
        self.doubtful = False
        if self._places() == self.places and self.graph is not None:
            return
        self._settle()
        if not self.capture:
            return
        self.graph = None  # gives its memory back
        try:
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            # another thread, such as one that reads photographs, may go on with what this one must not do meanwhile
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._run(epoch, step)
        except Exception as error:  # whatever it is, the plain step has worked
            self.plain = math.inf
            name, what = self.learner.recipe.weight, (str(error).splitlines() or [""])[0][:200]
            reason = f"that failed ({type(error).__name__}: {what})"
            self.say(f"{name}: steps are not captured in a CUDA graph, for {reason}; the run is slower.")
            _renew_generator(self.learner.processes.device)
            return
        self.graph, self.places = graph, self._places()

    def _places(self) -> list[int]:
        """Addresses of all that a step changes; masks whose version has changed note that now, not in the capture."""
        learner = self.learner
        tensors = [value for state in learner.optimizer.state.values() for value in state.values()]
        for module in filter(None, (learner.model, learner.ema)):
            tensors += module.state_dict().values()
        return [tensor.data_ptr() for tensor in tensors if isinstance(tensor, Tensor)]

    def _settle(self) -> None:
        """Bring the optimizer's state into the form that its fused step needs; it goes on for plain steps, too."""
        for parameter, state in self.learner.optimizer.state.items():
            for key, value in state.items():
                if key == "step" and isinstance(value, Tensor):
                    state[key] = value.to(parameter.device, torch.float32)
                elif isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = _laid_out(value, parameter)
        for group in self.learner.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = self.learner.processes.device.type == "cuda"

    @contextlib.contextmanager
    def _fused(self) -> Iterator[None]:
        """The optimizer in its fused form, which takes its rates from tensors; afterwards it is as it was."""
        optimizer = self.learner.optimizer
        before = [{key: group[key] for key in ("lr", "fused", "foreach")} for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group.update(lr=rate, fused=True, foreach=False)
        hook = optimizer.register_step_pre_hook(_lay_out_gradients)
        try:
            yield
        finally:
            hook.remove()
            for group, values in zip(optimizer.param_groups, before, strict=True):
                group.update(values)


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor with another's strides; kernels of 1x1 and channels-last have several that mean the same."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


def _lay_out_gradients(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = _laid_out(parameter.grad, parameter)


def _renew_generator(device: torch.device) -> None:
    """Give the device's generator a new state of the same value: a failed capture can leave it as if inside one."""
    with contextlib.suppress(Exception):
        generator = torch.cuda.default_generators[device.index or 0]
        fresh = torch.Generator(device)
        fresh.set_state(generator.get_state())
        generator.graphsafe_set_state(fresh)
