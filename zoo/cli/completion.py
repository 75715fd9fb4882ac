"""``zoo completion``: verbs, options and names as a shell completes them."""

import argparse

from ..names import list_models

SHELLS = ("bash", "zsh", "fish")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this group's commands."""
    parser = commands.add_parser("completion", help="print what makes a shell complete verbs, options and names")
    parser.description = (
        'In ~/.bashrc or ~/.zshrc: eval "$(zoo completion bash)", or zsh; in ~/.config/fish/config.fish: '
        "zoo completion fish | source."
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=lambda options: print(script(options.shell, commands)))


def script(shell: str, commands: argparse._SubParsersAction) -> str:
    """The completions of a shell, a script for it to read.

    Args:
        shell: One of :data:`SHELLS`.
        commands: The verbs.
    """
    from ..training.recipe import recipe_names

    known = [*list_models(), *list_models(pretrained=True)]
    names = {"name": known, "network": known, "arch": list_models(), "recipe": recipe_names()}
    verbs = {verb: _words(parser, names) for verb, parser in commands.choices.items()}
    if shell == "fish":
        lines = [f"complete -c zoo -n __fish_use_subcommand -f -a '{' '.join(verbs)}'"]
        behind = "complete -c zoo -n '__fish_seen_subcommand_from {}' -a '{}'"
        return "\n".join([*lines, *(behind.format(verb, words) for verb, words in verbs.items())])
    cases = "\n".join(f"    {verb}) words='{words}' ;;" for verb, words in verbs.items())
    start = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{start}_zoo() {{
  local words='{" ".join(verbs)}'
  [ "$COMP_CWORD" -gt 1 ] && case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _zoo zoo"""


def _words(parser: argparse.ArgumentParser, names: dict[str, list[str]]) -> str:
    """What may stand behind a verb."""
    words: list[str] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        words += [] if action.choices is None else map(str, action.choices)
        words += names.get(action.dest, [])
    return " ".join(dict.fromkeys(words))
