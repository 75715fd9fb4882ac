"""``zoo train-language`` and ``zoo perplexity``."""

import argparse
import json
from dataclasses import asdict

from .convert import parse_settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("train-language", help="train a word language model by a recipe")
    parser.add_argument("recipe", help="name of a language recipe that ships with the package, or a YAML file")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the run: best model, log, checkpoint")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.set_defaults(run=_train)
    parser = commands.add_parser("perplexity", help="measure the best model of a language run")
    parser.add_argument("folder", metavar="RUN", help="folder of the run")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the text")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test")
    parser.add_argument("--collapse", action="store_true", help="measure the plain LSTM or GRU it collapses into")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.set_defaults(run=_perplexity)


def _train(options: argparse.Namespace) -> None:
    from ..training.language import load_language_recipe, train_language

    recipe = load_language_recipe(options.recipe, parse_settings(options.set))
    train_language(recipe, options.data, options.output, options.resume, options.device)
    print(options.output)


def _perplexity(options: argparse.Namespace) -> None:
    import torch

    from ..data.text import EOS, load_split
    from ..evaluation.perplexity import perplexity
    from ..evaluation.results import table
    from ..reparam import reparameterize
    from ..training.language import load_run

    model, words, recipe = load_run(options.folder)
    tokens = load_split(options.data, options.split, words)
    if options.collapse:
        model = reparameterize(model)
    place = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    result = perplexity(
        model.to(place), tokens.to(place), words.index(EOS), columns=recipe.eval_columns, name=options.split
    )
    if options.json:
        print(json.dumps({"run": options.folder, "dataset": recipe.dataset, "split": options.split, **asdict(result)}))
        return
    row = [options.folder, recipe.dataset, options.split, f"{result.perplexity:.2f}", f"{result.loss:.4f}", result.n]
    print(table([row], ["run", "data set", "split", "perplexity", "nats per word", "words"]))
