"""Errors in the words of a command line: the flag, and the nearest valid one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence

CLASSES = {"model": "objective", "data": "data module"}


def explain(
    message: str, arguments: Sequence[str], flags: Iterable[str], classes: dict[str, list[type]]
) -> str:
    """A parser's error as a line or two for the user.

    Args:
        message: jsonargparse's own message.
        arguments: the command line.
        flags: the flags that the parser knows, such as `--encoder.dtype`.
        classes: the classes that `--model` and `--data` may name.
    """
    if unknown := re.search(r"unrecognized arguments: (.*)", message):
        wrong = [word for word in unknown[1].split() if word.startswith("--")] or [unknown[1]]
        return "\n".join(_unknown_flag(word.split("=")[0], flags) for word in wrong)
    if unknown := re.search(r"Option '([^']+)' is not accepted", message):
        flag = _flag_of(unknown[1], arguments)
        group = flag.lstrip("-").split(".")[0]
        known = [f"--{group}.{name}" for cls in classes.get(group, []) for name in _options(cls)]
        return _unknown_flag(flag, known)
    keys = re.findall(r'[Kk]ey "([^"]+)"', message)
    value = re.findall(r"(?:Got|Given) value: (.*)", message)
    if not keys:
        return " ".join(message.split())
    if keys[-1] in classes and value:
        return _unknown_class(keys[-1], value[-1], classes[keys[-1]])
    flag = _flag_of(keys[-1], arguments)
    choices = _choices(message)
    if choices and value:
        hint = _near(value[-1], choices)
        return f"{flag} is one of {', '.join(choices)}, but got {value[-1]}.{hint}"
    types = dict.fromkeys(re.findall(r"Expected an? <class '(\w+)'>", message))
    if types and value:
        return f"{flag} expects {' or '.join(types)}, but got {value[-1]}."
    return f"{flag}: {' '.join(message.split(':', 1)[-1].split())}"


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """A library error with flags instead of the arguments that it names in backquotes.

    Args:
        message: the message of a `UserError`.
        flags: argument -> flag.

    >>> with_flags('`dtype="int3"` is unknown.', {"dtype": "--encoder.dtype"})
    '--encoder.dtype int3 is unknown.'
    >>> with_flags("Set `Trainer(devices=1)` or change `steps`.", {})
    'Set --trainer.devices 1 or change `steps`.'
    >>> with_flags("`STSEvaluation.limit` expects at least 2, but got 1.", {})
    '--trainer.callbacks.limit expects at least 2, but got 1.'
    """

    def flag_of(match: re.Match[str]) -> str:
        owner, name, value = match["owner"], match["name"], match["value"]
        flag = f"--{_group(owner)}.{name}" if owner else flags.get(name)
        if flag is None:
            return match[0]
        return flag if value is None else f"{flag} {_as_typed(value)}"

    return _ARGUMENT.sub(flag_of, message)


_ARGUMENT = re.compile(
    r"`(?:(?P<owner>encoder|model|data|checkpoint|Trainer|\w*Evaluation)[.(])?"
    r"(?P<name>\w+)(?:=(?P<value>[^`]*?))?\)?`"
)


def _group(owner: str) -> str:
    """The flags' group of an argument's owner."""
    return "trainer.callbacks" if owner.endswith("Evaluation") else owner.lower()


def _as_typed(value: str) -> str:
    """A Python value as it is typed on a command line."""
    return {"True": "true", "False": "false", "None": "null"}.get(value, value.strip("'\""))


def arguments_of(classes: Mapping[str, Iterable[type]]) -> dict[str, str]:
    """The flag of each argument; if several classes have it, that of the first.

    Args:
        classes: classes whose constructors' arguments are flags, by the flags' group.
    """
    flags: dict[str, str] = {}
    for group, members in classes.items():
        for name in (name for cls in members for name in _options(cls)):
            flags.setdefault(name, f"--{group}.{name}")
    return flags


def _unknown_flag(flag: str, known: Iterable[str]) -> str:
    hint = _near(flag, known) or " See --help for all."
    return f"There is no option {flag}.{hint}"


def _unknown_class(key: str, name: str, known: list[type]) -> str:
    names = sorted({cls.__name__ for cls in known})
    return (
        f"--{key}: there is no {CLASSES[key]} {name}.{_near(name, names)} Known are "
        f"{', '.join(names)}; name another by its dotted path, such as my_module.MyClass."
    )


def _near(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {match[0]}?" if match else ""


def _flag_of(key: str, arguments: Sequence[str]) -> str:
    """The flag as the user wrote it: the parser of a nested class knows only its last part."""
    written = (word.split("=")[0] for word in arguments if word.startswith("--"))
    return next((flag for flag in written if flag.lstrip("-").split(".")[-1] == key), f"--{key}")


def _options(cls: type) -> list[str]:
    return [name for name in inspect.signature(cls).parameters if name != "encoder"]


def _choices(message: str) -> list[str]:
    listed = ",".join(re.findall(r"Literal\[(.*?)\]", message))
    return list(dict.fromkeys(re.sub(r"['\s]", "", listed).split(","))) if listed else []
