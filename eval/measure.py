"""What the scripts of this folder share: their options, and the table they print."""

import argparse
import sys

from zoo.distributed import Processes, together
from zoo.errors import ZooError
from zoo.evaluation.measure import accuracy_table, class_table, measure
from zoo.evaluation.results import write_results
from zoo.evaluation.validate import AMP, autocast_type


def main(description: str, *datasets: str) -> int:
    """Run a script.

    Args:
        description: Shown by ``--help``.
        datasets: Data sets it can measure on; the first is the default.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="+", help="as zoo validate takes it")
    parser.add_argument("--dataset", choices=datasets, default=datasets[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--batch-size", type=int, help="images per step (64; 256 on a GPU)")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--amp", action="store_true", help="autocast: faster, other figures, which then say so")
    parser.add_argument("--amp-dtype", choices=AMP, help=f"its data type ({AMP[0]})")
    parser.add_argument("--channels-last", action="store_true", help="lay images and networks out so")
    parser.add_argument("--collapsed", action="store_true", help="measure the networks' collapsed forms")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of the one architecture named")
    parser.add_argument("--results", metavar="FILE", help="also write the figures to FILE.json or FILE.csv")
    parser.add_argument("--predictions", metavar="FILE", help="also keep class and score of every image in FILE.npz")
    parser.add_argument("--per-class", action="store_true", help="also print the accuracy of every class")
    options = parser.parse_args()
    try:
        with together(options.device) as processes:
            _measure(options, processes)
    except ZooError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _measure(options: argparse.Namespace, processes: Processes) -> None:
    if options.results and not options.results.endswith((".json", ".csv")):
        raise ZooError(f"{options.results}: results are written as .json or .csv; give the file one of these endings.")
    names = ("collapsed", "checkpoint", "batch_size", "predictions", "channels_last")
    chosen = {name: getattr(options, name) for name in names}
    chosen["amp"] = autocast_type(options.amp, options.amp_dtype)
    results = measure(options.name, options.dataset, options.data, processes=processes, **chosen)
    if processes.first:
        print(accuracy_table(results))
        if options.per_class:
            print(class_table(results))
        if options.results:
            write_results(results, options.results)
