"""A wrong option, explained in one line that names the flag and the nearest right one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence

CLASSES = {"model": "objective", "data": "data module"}


def explain(
    message: str, arguments: Sequence[str], flags: Iterable[str], classes: dict[str, list[type]]
) -> str:
    """A parser's error as a line or two for the user.

    Args:
        message: jsonargparse's own.
        arguments: the command line.
        flags: those that the parser knows, as `--encoder.dtype`.
        classes: what `--model` and `--data` may name.
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


def _unknown_flag(flag: str, known: Iterable[str]) -> str:
    hint = _near(flag, known) or " See --help for all."
    return f"There is no option {flag}.{hint}"


def _unknown_class(key: str, name: str, known: list[type]) -> str:
    names = sorted({cls.__name__ for cls in known})
    return (
        f"--{key}: there is no {CLASSES[key]} {name}.{_near(name, names)} Known are "
        f"{', '.join(names)}; name another by its dotted path, as my_module.MyClass."
    )


def _near(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {match[0]}?" if match else ""


def _flag_of(key: str, arguments: Sequence[str]) -> str:
    """The flag as the user wrote it: the parser of a nested class knows its last part only."""
    written = (word.split("=")[0] for word in arguments if word.startswith("--"))
    return next((flag for flag in written if flag.lstrip("-").split(".")[-1] == key), f"--{key}")


def _options(cls: type) -> list[str]:
    return [name for name in inspect.signature(cls).parameters if name != "encoder"]


def _choices(message: str) -> list[str]:
    listed = ",".join(re.findall(r"Literal\[(.*?)\]", message))
    return list(dict.fromkeys(re.sub(r"['\s]", "", listed).split(","))) if listed else []
