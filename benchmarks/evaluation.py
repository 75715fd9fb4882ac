"""How long an evaluation takes over timm's own way: the data side alone, and the whole with a network.

    python benchmarks/evaluation.py --photographs DIR [--cifar10 DIR] [--model resnet18] [--limit 256] [--repeat 5]

timm's way is its transform image by image (decode, resize, crop, floats, normalise) in a loader with as many workers,
and the network in eager float32. All are measured in turn, and what is printed are ratios, since times belong to a
machine: ours divided by timm's, below 1 where ours is faster, the median of the repetitions with the smallest and the
largest. "the network alone" is the least that an evaluation with this network can take. The network has random weights,
so the last line is about arithmetic only: how many photographs get another guess than in timm's way, and how far scores
are off.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from zoo.data.arrays import read_arrays
from zoo.data.catalog import get_dataset
from zoo.data.images import ImageFolder, image_folder_loader, normalised, usable_cores
from zoo.tables import table

BATCH = 64


class PerImage(Dataset):
    """A small data set image by image, as torchvision's are read."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].transpose(1, 2, 0))), int(self.labels[index])


def scores(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], amp: bool = False) -> Tensor:
    """What the network says of all images, (images, classes)."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        return torch.cat([model(images).float() for images, _ in batches])


def read(batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """The data side alone."""
    for _ in batches:
        pass


def ratios(ways: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Each way's time divided by that of the first, in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:  # the first is for warming up
                times[name].append(time.perf_counter() - began)
    base, *_ = times.values()
    return {name: [a / b for a, b in zip(own, base, strict=True)] for name, own in times.items()}


def cell(found: list[float]) -> str:
    """Median (smallest-largest)."""
    return f"{statistics.median(found):.3f} ({min(found):.3f}-{max(found):.3f})"


def photographs(folder: str, arch: str, limit: int, repeat: int) -> str:
    """The table of an ImageNet folder, of which a part is taken, spread over all classes."""
    model = timm.create_model(arch).eval()
    last = timm.create_model(arch).eval()
    last.load_state_dict(model.state_dict())
    last = last.to(memory_format=torch.channels_last)
    config = resolve_data_config(model=model)
    every = max(1, len(ImageFolder(folder)) // limit)
    transformed = ImageFolder(folder)
    transformed.transform = create_transform(**config, is_training=False)
    batches = slice(None, None, every)

    def timms() -> DataLoader:
        plan = [range(n, min(n + BATCH, len(transformed))) for n in range(0, len(transformed), BATCH)][batches]
        return DataLoader(transformed, batch_sampler=plan, num_workers=min(usable_cores(), 8))

    def ours(channels_last: bool = False) -> Iterable[tuple[Tensor, Tensor]]:
        return image_folder_loader(folder, config, BATCH, channels_last=channels_last, part=batches)

    kept = list(timms())
    kept_last = [(images.contiguous(memory_format=torch.channels_last), labels) for images, labels in kept]
    same = all(torch.equal(a, b) for (a, _), (b, _) in zip(kept, ours(), strict=True))
    data = ratios({"timm's": lambda: read(timms()), "ours": lambda: read(ours())}, repeat)
    whole = ratios(
        {
            "timm's": lambda: scores(model, timms()),
            "float32": lambda: scores(model, ours()),
            "float32, the network alone": lambda: scores(model, kept),
            "float32, channels-last": lambda: scores(last, ours(True)),
            "bfloat16, channels-last": lambda: scores(last, ours(True), amp=True),
            "bfloat16, channels-last, the network alone": lambda: scores(last, kept_last, amp=True),
        },
        repeat,
    )
    rows = [
        ["data side", cell(data["ours"])],
        *([f"whole, {name}", cell(value)] for name, value in list(whole.items())[1:]),
    ]
    exact, half = scores(model, kept), scores(last, kept_last, amp=True)
    other = int((exact.argmax(1) != half.argmax(1)).sum())
    apart = ((exact - half).abs().max() / exact.abs().max()).item()
    lines = [f"{len(exact)} photographs, {arch}, {torch.get_num_threads()} threads of torch; ours over timm's"]
    lines.append(table(rows, ["", "median (smallest-largest)"]))
    lines.append(f"our images are {'the same as' if same else 'OTHERS THAN'} timm's, to the bit")
    lines.append(f"bfloat16: {other} of {len(exact)} guesses are others; scores within {apart:.1e} of the largest")
    return "\n".join(lines)


def small(folder: str, repeat: int) -> list[float]:
    """The data side of CIFAR-10's test set, over a loader that takes image by image."""
    images, labels, *_ = read_arrays("cifar10", folder, "test")
    info = get_dataset("cifar10")
    config = {"mean": info.mean, "std": info.std}
    one = PerImage(images, labels, Compose([ToTensor(), Normalize(info.mean, info.std)]))

    def ours() -> Iterable[tuple[Tensor, Tensor]]:
        for n in range(0, len(labels), BATCH):
            yield normalised(torch.from_numpy(images[n : n + BATCH]), config), torch.from_numpy(labels[n : n + BATCH])

    ways = {
        "per image": lambda: read(DataLoader(one, BATCH, num_workers=min(usable_cores(), 8))),
        "ours": lambda: read(ours()),
    }
    return ratios(ways, repeat)["ours"]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", metavar="DIR", help="class folders, as ImageNet has them")
    parser.add_argument("--cifar10", metavar="DIR", help="CIFAR-10")
    parser.add_argument("--model", default="resnet18", help="any network of timm's for photographs")
    parser.add_argument("--limit", type=int, default=256, help="about how many photographs")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    if options.cifar10:
        found = cell(small(options.cifar10, options.repeat))
        print(f"data side of CIFAR-10 over a loader that takes image by image: {found}", flush=True)
    if options.photographs:
        print(photographs(options.photographs, options.model, options.limit, options.repeat))


if __name__ == "__main__":
    main()
