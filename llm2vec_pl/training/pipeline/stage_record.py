"""What a pipeline's stage was made from, and what it has left, on disk with its runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder import ENCODER, encoder_contents, newest_run
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, write_json

DONE = "done.json"  # of a finished stage
BEGUN = "begun.json"  # of the training that began last
START = "--encoder.model_name"
OTHER = "Name another folder with --out, or delete this one."


class StageRecord:
    """The record of one stage.

    What a stage is made from is a dictionary: its `command`; `files`, the fingerprints of its
    configuration and its data by path; and `start`, that of the encoder that it starts from.

    Args:
        folder: the folder of the stage's runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def done(self) -> dict[str, Any]:
        """What a finished stage was made from, its `encoder` and `minutes`; else empty."""
        return read_json(self.folder / DONE)

    @property
    def encoder(self) -> str:
        """The folder of the encoder that the stage has left; other runs there are not its own."""
        recorded = self.done.get("encoder")
        return str(self.folder / recorded if recorded else newest_run(self.folder))

    def refuse_another(self, command: list[str], files: dict[str, str], follows: bool) -> None:
        """Checks that the finished stage was made by this command, from these files.

        Args:
            command: the command as it would be run now.
            files: the fingerprints of the files that it names.
            follows: whether it starts from another stage, whose folder's name does not matter.

        Raises:
            UserError: if it was not.
        """
        done = self.done
        before = done["command"]
        if _without_start(before, follows) != _without_start(command, follows):
            raise UserError(
                f"{self.folder} was trained by another command:\n  {shlex.join(before)}\n"
                f"but this run needs\n  {shlex.join(command)}\n{OTHER}"
            )
        was = done.get("files", files)  # an earlier version recorded none
        changed = [path for path in {**was, **files} if was.get(path) != files.get(path)]
        if changed:
            raise UserError(
                f"{', '.join(changed)} has changed since {self.folder} was trained. {OTHER}"
            )

    def is_of(self, start: str) -> bool:
        """Whether the finished stage's encoder exists, and was made from this start.

        Args:
            start: any `--encoder.model_name`.
        """
        done = self.done
        if not Path(self.encoder).is_dir():
            return False
        if "contents" not in done:  # from an earlier version: only the date is known
            return not _is_newer(Path(start), self.folder / DONE)
        contents = encoder_contents(self.encoder)
        return bool(done["start"] == encoder_contents(start) and done["contents"] == contents)

    def begin(self, made_from: dict[str, Any]) -> Path | None:
        """Records what the stage is about to be made from.

        Returns:
            The last checkpoint of an interrupted run that was made from the same; else None.
        """
        begun = read_json(self.folder / BEGUN)
        earlier = begun.get("earlier", [])
        if begun.get("made_from") != made_from:
            runs = sorted(path.name for path in self.folder.glob("version_*"))
            # An interrupted run without a record is from an earlier version.
            earlier = runs if begun or self.done else []
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / BEGUN, {"made_from": made_from, "earlier": earlier})
        return interrupted(self.folder, earlier)

    def end(self, minutes: float) -> None:
        """Records what the training that began last has left.

        Raises:
            UserError: if it has left no encoder.
        """
        begun = read_json(self.folder / BEGUN)
        encoder = newest_run(self.folder)
        if encoder == self.folder or encoder.parent.name in begun["earlier"]:
            raise UserError(
                f"The training in {self.folder} has left no encoder. Read its output above."
            )
        done = {
            **begun["made_from"],
            "minutes": minutes,
            "encoder": str(encoder.relative_to(self.folder)),
            "contents": encoder_contents(str(encoder)),
        }
        write_json(self.folder / DONE, done)


def interrupted(folder: Path, earlier: Sequence[str] = ()) -> Path | None:
    """The last checkpoint of a recipe's newest run that has not left an encoder.

    Args:
        folder: the folder of the recipe's runs.
        earlier: names of runs that were made from something else.
    """
    runs = [run for run in folder.glob("version_*") if not (run / ENCODER).exists()]
    checkpoints = [run / "checkpoints" / "last.ckpt" for run in runs if run.name not in earlier]
    there = [path for path in checkpoints if path.is_file()]
    return max(there, key=lambda path: path.stat().st_mtime, default=None)


def _without_start(command: list[str], follows: bool) -> list[str]:
    if not follows or START not in command:
        return command
    place = command.index(START) + 1
    return command[:place] + command[place + 1 :]


def _is_newer(folder: Path, file: Path) -> bool:
    """Whether a file in the folder was written after this one."""
    written = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file()]
    return max(written, default=0.0) > file.stat().st_mtime
