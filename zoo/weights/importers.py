"""Authors' checkpoints as the papers' training scripts write them: read safely, reduced to one state dict.

Only ``weights_only`` loading is used. Objects of a script's own classes (a recorder, a loss scaler) are replaced by
inert stand-ins: their names are known to the loader, their code is neither imported nor run, and what they held is
thrown away with them.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightError

_PREFIXES = ("module.1.", "module.", "1.")  # a data-parallel wrapper, a half-precision wrapper inside it, or alone
_UNKNOWN = re.compile(r"Unsupported global: GLOBAL ([\w.]+)|Unsupported class ([\w.]+)")


class StandIn:
    """Takes the place of a class that is not known here; accepts anything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the network's tensors from a checkpoint of one of the papers' scripts.

    Containers known: a bare state dict; one under ``state_dict``, ``net`` or ``model`` beside epoch, accuracy,
    optimizer and recorder; ``params`` and ``stats`` of the symmetry paper, which are joined. Prefixes of wrappers are
    removed where every key has them, half precision becomes float32.

    Args:
        path: The file, as ``torch.save`` wrote it.

    Raises:
        WeightError: If the file is not such a checkpoint, is damaged, or names something that cannot be made inert.
    """
    content = _load(Path(path))
    if not isinstance(content, dict):
        raise WeightError(f"{path}: holds a {type(content).__name__}, not a checkpoint.")
    if isinstance(content.get("params"), dict) and isinstance(content.get("stats"), dict):
        state = {**content["params"], **content["stats"]}
    else:
        inner = [content[key] for key in ("state_dict", "net", "model") if isinstance(content.get(key), dict)]
        state = inner[0] if inner else content
    wrong = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong or not state:
        raise WeightError(f"{path}: {wrong[0] if wrong else 'nothing'} is no tensor; expected a state dict.")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
            break
    # detached clones: a file can hold views of one large tensor, or parameters that ask for gradients
    return {
        key: (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).detach().clone()
        for key, tensor in state.items()
    }


def _load(path: Path) -> Any:
    stand_ins: list[tuple[type, str]] = []
    for _ in range(32):
        try:
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise WeightError(f"No such file: {path}") from None
        except pickle.UnpicklingError as error:
            unknown = _UNKNOWN.search(str(error))
            name = unknown and (unknown[1] or unknown[2])
            if not name or name in {n for _, n in stand_ins}:
                raise WeightError(f"{path}: refused, {_reason(error)}") from None
            stand_ins.append((type(name.rpartition(".")[2], (StandIn,), {}), name))
        except Exception as error:  # a damaged or hostile file can raise anything
            raise WeightError(f"{path}: cannot be read as a checkpoint ({_reason(error)})") from None
    raise WeightError(f"{path}: refused, it names more than 32 unknown classes.")


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if "Unsupported" in line or "not allowed" in line or "blocked" in line.lower()]
    return (found or lines or [type(error).__name__])[0][:300]
