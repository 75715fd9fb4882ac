"""What timm's users expect of a classification CNN, once for all families: stem, stages, final layers, head."""

from collections.abc import Sequence

from timm.models import checkpoint
from torch import Tensor, nn


class StagedNet(nn.Module):
    """A CNN in four parts; a family's network creates them and inherits the rest of timm's model behaviour.

    Attributes:
        stem: First layers.
        stages: ``nn.ModuleList``; the output of each is one feature level.
        final: Layers between the last stage and the pooling (``nn.Identity`` if none).
        head: Pooling and classifier, with ``reset(num_classes, global_pool)``, ``classifier`` (the last linear or
            convolution layer) and ``forward(x, pre_logits=False)``.
        feature_info: One dict (``num_chs``, ``reduction``, ``module``) per stage.
        num_features: Channels that ``forward_features`` returns.
        head_hidden_size: Width of ``forward_head(..., pre_logits=True)``.
    """

    stem: nn.Module
    stages: nn.ModuleList
    final: nn.Module
    head: nn.Module
    num_classes: int
    num_features: int
    head_hidden_size: int

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.feature_info: list[dict] = []

    def _describe_stages(self, channels: Sequence[int], reductions: Sequence[int]) -> None:
        self.feature_info = [
            {"num_chs": c, "reduction": r, "module": f"stages.{i}"}
            for i, (c, r) in enumerate(zip(channels, reductions, strict=True))
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the unpooled features, (batch, num_features, height, width)."""
        x = self.stem(x)
        for stage in self.stages:
            x = self._run(stage, x)
        return self.final(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with ``pre_logits`` stop before the classifier, (batch, head_hidden_size)."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (batch, num_classes), for images (batch, channels, height, width)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the outputs of chosen stages, timm's signature.

        Args:
            x: Images.
            indices: Stages: None for all, an int for the last so many, or a sequence (negative counts from the end).
            norm: Apply ``final`` to the last stage's output.
            stop_early: Do not run stages after the last one wanted.
            output_fmt: Only ``NCHW``.
            intermediates_only: Leave the final features out of the result.

        Raises:
            ValueError: If an index or the format does not exist.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt {output_fmt!r}: only NCHW is supported.")
        take = self._take(indices)
        outputs = []
        x = self.stem(x)
        last = len(self.stages) - 1
        for i, stage in enumerate(self.stages):
            if stop_early and i > max(take):
                break
            x = self._run(stage, x)
            if i in take:
                outputs.append(self.final(x) if norm and i == last else x)
            if i == last:
                x = self.final(x)
        return outputs if intermediates_only else (x, outputs)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one wanted; return the absolute indices."""
        take = self._take(indices)
        if prune_norm or max(take) + 1 < len(self.stages):  # the final layers fit the last stage only
            self.final = nn.Identity()
        self.stages = self.stages[: max(take) + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the last layer, or its dotted name."""
        return "head.fc" if name_only else self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes leaves the features, pooled unless ``global_pool`` is empty."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Regexes that group the parameters by depth, for layer-wise learning rates."""
        blocks = r"^stages\.(\d+)" if coarse else [(r"^stages\.(\d+)\.(\d+)", None), (r"^stages\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": [*blocks, (r"^final", (99999,))] if not coarse else blocks}

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            return checkpoint(stage, x)
        return stage(x)

    def _take(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.stages)
        if indices is None:
            indices = range(count)
        elif isinstance(indices, int):
            indices = range(-indices, 0)
        take = [i + count if i < 0 else i for i in indices]
        if not take or min(take) < 0 or max(take) >= count:
            raise ValueError(f"Feature indices {list(indices)}: this network has levels 0 to {count - 1}.")
        return take
