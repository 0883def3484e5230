"""Command lines in the form of Docker's tools, on top of argparse.

What argparse alone does otherwise: flags and arguments may be mixed, a flag's value may begin with a dash, a switch
takes `=true` and `=false`, names are never abbreviated, and a wrong command line is an error with one clear message.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NoReturn

from stagewright.cli.values import parse_bool
from stagewright.errors import UsageError

# All texts are English. To look for translations of argparse's costs each command a module and a search for files.
vars(argparse)["_"] = str


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = ", ".join(action.option_strings)
        if action.metavar is None:
            return names
        return f"{names}[={action.metavar}]" if action.nargs == "?" else f"{names} {action.metavar}"


class CommandParser(argparse.ArgumentParser):
    """The flags and arguments of one command.

    `arguments` is how the usage line writes the arguments, `least` and `most` how many there may be (None: any number).
    Flags named in `refused` (without dashes; one letter for a short one) are known to exist and are not supported yet.
    """

    def __init__(
        self,
        command: str,
        summary: str,
        *,
        arguments: str = "",
        least: int = 0,
        most: int | None = 0,
        refused: Collection[str] = (),
    ) -> None:
        super().__init__(
            prog=f"stagewright {command}",
            usage=f"stagewright {command} [flags] {arguments}".rstrip(),
            description=summary,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self._least = least
        self._most = most
        self._refused = refused

    def switch(self, *names: str, help: str) -> None:
        """Adds a flag that is on or off."""
        read = _naming(names[-1], parse_bool)
        self.add_argument(*names, nargs="?", const=True, default=False, type=read, help=help)

    def single(
        self, *names: str, help: str, metavar: str, type: Callable[[str], Any] = str, default: Any = None
    ) -> None:
        """Adds a flag with one value, read by `type`; the last counts if it is given several times."""
        self.add_argument(*names, default=default, metavar=metavar, help=help, type=_naming(names[-1], type))

    def repeatable(self, *names: str, help: str, metavar: str, type: Callable[[str], Any] = str) -> None:
        """Adds a flag that may be given several times; its value is the list of them."""
        read = _naming(names[-1], type)
        self.add_argument(*names, action="append", default=[], metavar=metavar, help=help, type=read)

    def common(self, *, store: bool = True) -> None:
        """Adds the flags that every command has; `store` those that say where its state and its settings are."""
        if store:
            self.single("--root", metavar="DIR", help="where images and cache are kept (STAGEWRIGHT_ROOT)")
            self.single("--config", metavar="FILE", help="the configuration file (STAGEWRIGHT_CONFIG)")
        self.switch("-D", "--debug", help="show where errors come from, and warnings in full")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags' values as attributes, and the arguments as the list `arguments`.

        Raises:
            UsageError: the command line is wrong.
            SystemExit: help was asked for, and shown.
        """
        flags, arguments = self._split(argv)
        options = self.parse_args(flags)
        self._check_count(arguments)
        options.arguments = arguments
        return options

    def error(self, message: str) -> NoReturn:
        """Raises what argparse has found as a UsageError."""
        raise self._usage_error(message)

    def _usage_error(self, message: str, hint: str | None = None) -> UsageError:
        return UsageError(message, hint=hint or f"see {self.prog} --help")

    def _check_count(self, arguments: list[str]) -> None:
        if self._least <= len(arguments) and (self._most is None or len(arguments) <= self._most):
            return
        if self._most == 0:
            raise self._usage_error(f"{self.prog} takes no arguments, but got {arguments[0]!r}")
        bound, count = ("needs exactly" if self._least == self._most else "needs at least"), self._least
        if self._most is not None and self._least < self._most < len(arguments):
            bound, count = "takes at most", self._most
        plural = "" if count == 1 else "s"
        raise self._usage_error(f"{self.prog} {bound} {count} argument{plural}, but got {len(arguments)}")

    def _split(self, argv: Sequence[str]) -> tuple[list[str], list[str]]:
        """Sets flags, each as one `--name` or `--name=value`, apart from arguments."""
        flags: list[str] = []
        arguments: list[str] = []
        rest = list(reversed(argv))
        while rest:
            word = rest.pop()
            if word == "--":
                arguments.extend(reversed(rest))
                break
            if word.startswith("--"):
                flags.append(self._long(word, rest))
            elif word.startswith("-") and word != "-":
                flags.extend(self._short(word, rest))
            else:
                arguments.append(word)
        return flags, arguments

    def _long(self, word: str, rest: list[str]) -> str:
        name, equals, _ = word.partition("=")
        action = self._action(name)
        if equals or action.nargs is not None:
            return word
        return f"{name}={self._next(name, rest)}"

    def _short(self, word: str, rest: list[str]) -> Iterable[str]:
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            action = self._action(name)
            long = action.option_strings[-1]
            if letters.startswith("="):
                yield f"{long}{letters}"
                return
            if action.nargs is None:
                yield f"{long}={letters or self._next(name, rest)}"
                return
            yield long

    def _action(self, name: str) -> argparse.Action:
        action = self._option_string_actions.get(name)
        if action is not None:
            return action
        if name.lstrip("-") in self._refused:
            raise self._usage_error(f"the flag {name} is not supported yet")
        raise self._usage_error(f"unknown flag {name}", suggest(name, self._option_string_actions))

    def _next(self, name: str, rest: list[str]) -> str:
        if not rest:
            raise self._usage_error(f"the flag {name} needs a value")
        return rest.pop()


def _naming(flag: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_named(text: str) -> Any:
        try:
            return read(text)
        except UsageError as error:
            raise UsageError(f"{flag}: {error.message}", hint=error.hint) from error

    return read_named


def suggest(word: str, known: Iterable[str]) -> str | None:
    """A question after the known word that is most like `word`, if one is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else None
