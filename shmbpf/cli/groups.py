"""Groups of commands that load lazily and may be shortened, and commands whose arguments are bpftool's words."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import click


@dataclass
class Settings:
    """The global options; `context.obj` of every command."""

    ns: str = "default"
    ns_given: bool = False  #: with --ns, not by the environment or by default
    json: bool = False
    pretty: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    bpffs: bool = False  #: show pins too


class PrefixGroup(click.Group):
    """A group whose commands may be shortened: the exact name, else the first command that begins with the word (as bpftool does it).

    Commands that are only announced are imported when they are called; one whose module is not there is not listed.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._announced: dict[str, str] = {}

    def announce(self, name: str, place: str, short_help: str) -> None:
        """Adds the command `module:attribute` without importing it."""
        if importlib.util.find_spec(place.partition(":")[0]):
            self._announced[name] = place
            self.add_command(click.Command(name, short_help=short_help))

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)  # in the order of definition, which is also the order of prefixes

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "help":
            return click.Command("help", callback=lambda: click.echo(context.get_help()), hidden=True, add_help_option=False)
        names = self.list_commands(context)
        chosen = name if name in names else next((known for known in names if name and known.startswith(name)), None)
        return None if chosen is None else self.commands[chosen]

    def resolve_command(self, context: click.Context, args: list[str]):
        _, command, rest = super().resolve_command(context, args)
        if command is not None and command.name in self._announced:
            module, _, attribute = self._announced[command.name].partition(":")
            return command.name, getattr(importlib.import_module(module), attribute), rest
        return command.name if command else None, command, rest

    def alias(self, name: str, other: str) -> None:
        """Another name for a command, which help does not list."""
        command = self.commands[other]
        twin = type(command)(name, callback=command.callback, params=command.params, help=command.help, epilog=command.epilog, hidden=True)
        self.add_command(twin)


def _set_json(context: click.Context, param: click.Parameter, value: bool) -> None:
    settings = context.find_object(Settings)
    if value and settings:
        settings.json = True
        settings.pretty = settings.pretty or param.name == "pretty"


class WordCommand(click.Command):
    """A command whose arguments are words in free order. `-1` is a word like any other; -j and -p may come late, as with bpftool."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("context_settings", {"ignore_unknown_options": True})
        super().__init__(*args, **kwargs)
        for name, flags in (("json", ("-j", "--json")), ("pretty", ("-p", "--pretty"))):
            if all(param.name != name for param in self.params):
                self.params.append(click.Option([*flags, name], is_flag=True, hidden=True, expose_value=False, callback=_set_json))


def words_argument(metavar: str):
    """All arguments of a WordCommand, as the tuple `words`."""
    return click.argument("words", nargs=-1, metavar=metavar, type=click.UNPROCESSED)
