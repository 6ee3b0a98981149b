"""One command, several runs with a seed each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.cli import LightningArgumentParser

from llm2vec_pl.errors import UserError, user_errors
from llm2vec_pl.training.command import Command


class SeededCommand(Command):
    """A recipe that trains `--seeds` times: with `--seed_everything`, and the seeds that follow.

    A single run lies in the recipe's folder as usual, several in `seed_0`, `seed_1`, … there. The
    order of the data follows the seed too.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--seeds`."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--seeds",
            type=int,
            default=1,
            help="how many runs to train, each with the next seed after --seed_everything",
        )

    def before_instantiate_classes(self) -> None:
        """Prepares the first run, which Lightning builds."""
        super().before_instantiate_classes()
        with user_errors():
            self.seeds = self._seeds()
        self.root = Path(self.config["trainer"]["default_root_dir"])
        self._resume = self.config["resume"]
        self._data_seed = self.config["data"]["init_args"].get("seed")
        self.config["seeds"] = 1  # the config.yaml of a run repeats that run
        self._prepare(self.seeds[0])

    def runs(self) -> Iterator[int]:
        """Builds encoder, objective, data and trainer for one seed after the other.

        Yields:
            The seed. `model`, `datamodule` and `trainer` are then those of its run.
        """
        for seed in self.seeds:
            if seed != self.seeds[0]:  # the first run is there already
                seed_everything(seed, workers=True, verbose=False)
                self._prepare(seed)
                self.instantiate_classes()
            yield seed

    def _prepare(self, seed: int) -> None:
        self.config["resume"] = self._resume
        if len(self.seeds) == 1:
            return
        self.config["seed_everything"] = seed
        self.config["trainer"]["default_root_dir"] = str(self.root / f"seed_{seed}")
        if self._data_seed is not None:
            data = self.config["data"]["init_args"]
            data["seed"] = self._data_seed + seed - self.seeds[0]

    def _seeds(self) -> list[int]:
        count, first = self.config["seeds"], self.config["seed_everything"]
        if count < 1:
            raise UserError(f"--seeds is at least 1, but got {count}.")
        if count == 1:
            return [first]
        if isinstance(first, bool) or not isinstance(first, int):
            raise UserError(
                f"--seeds {count} needs a number in --seed_everything, but got {first}."
            )
        if self.config["resume"] not in (None, "last"):
            raise UserError(
                f"--seeds {count} continues each of its runs with --resume last, but got "
                f"--resume {self.config['resume']}. To continue one of them, repeat its own "
                "config.yaml with --config."
            )
        return list(range(first, first + count))
