"""How a recipe becomes a command: constructors' arguments become flags, and a run leaves a folder.

`--encoder.* --model.* --data.* --trainer.*` are the arguments of `Encoder`, of an objective, of a
data module and of Lightning's Trainer; `--config FILE` reads them from YAML, `--resume PATH` goes
on from a checkpoint.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llm2vec_pl import data as data_modules
from llm2vec_pl import objectives
from llm2vec_pl.data import TextBlocks
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError, fail, user_errors
from llm2vec_pl.objectives import Objective
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
from llm2vec_pl.training.checkpoints import Checkpoints, follow_each_validation
from llm2vec_pl.training.console import RunProgressBar, silence_noise
from llm2vec_pl.training.demo import data_is_open, has_demo_numbers, names, needs_reader
from llm2vec_pl.training.failures import no_process_left, out_of_memory
from llm2vec_pl.training.finite import FiniteGradients
from llm2vec_pl.training.flag_errors import explain
from llm2vec_pl.training.resume import find_checkpoint, run_loggers
from llm2vec_pl.training.run_folder import PinnedConfig, keep_best, save_run
from llm2vec_pl.training.self_check import SelfCheck


class Command(LightningCLI):
    """A recipe's command line: parsed, and everything built but the weights.

    Args:
        name: of the recipe; runs go to `runs/NAME` unless `--trainer.default_root_dir` is given.
        model: the objective, unless `--model` names another.
        data: the data module, unless `--data` names another: one that needs no path.
        defaults: of further flags, as {"trainer.max_steps": 1000}.
        demo: YAML with the numbers for the embedded decoder, which hold for it and for what was
            trained from it, where there is no `--config`.
        reader: the data module that a `--data.path` is for, where `--data` names none.
    """

    def __init__(
        self,
        name: str,
        model: type[Objective],
        data: type[LightningDataModule],
        defaults: dict[str, Any] | None = None,
        demo: Path | None = None,
        reader: type[LightningDataModule] | None = None,
    ) -> None:
        self.name = name
        self.reader = reader
        self.demo = demo if demo and has_demo_numbers() else None
        defaults = defaults or {}
        self.defaults = {
            "model": _class_and_defaults(model, "model.", defaults),
            "data": _class_and_defaults(data, "data.", defaults),
            "trainer.default_root_dir": f"runs/{name}",
            "trainer.num_sanity_val_steps": 0,
            **{k: v for k, v in defaults.items() if not k.startswith(("model.", "data."))},
        }
        silence_noise()
        sys.path.insert(0, os.getcwd())  # for --model my_module.MyObjective
        super().__init__(
            Objective,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=PinnedConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"default_config_files": [str(self.demo)]} if self.demo else {},
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose errors are a line or two."""
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="read flags from YAML")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--encoder.*` and `--resume`, and sets the recipe's defaults."""
        parser.add_class_arguments(Encoder, "encoder")
        parser.link_arguments("encoder", "model.init_args.encoder", apply_on="instantiate")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="go on with a run: `last` for the newest (or a new one where there is none yet), "
            "a checkpoint's path or a run's folder",
        )
        parser.add_class_arguments(Checkpoints, "checkpoint", instantiate=False)
        parser.add_argument(
            "--checkpoint.asynchronous",
            type=bool,
            default=False,
            help="write checkpoints while the next steps run",
        )
        parser.set_defaults(self.defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line, in which a path to data may do without `--data`."""
        first = [f"--data={self.reader.__name__}"] if self.reader and needs_reader() else []
        self.config = parser.parse_args([*first, *sys.argv[1:]])

    def before_instantiate_classes(self) -> None:
        """Says what the data is where nothing does, and cuts texts as the encoder is told to."""
        data = self.config["data"]
        if data_is_open():
            numbers = (
                f"the numbers are those of {self.demo}" if self.demo else "the recipe's numbers"
            )
            rank_zero_info(
                f"{self.name}: without --data, {data['class_path'].rpartition('.')[2]}: the "
                f"documentation of the Python packages on this machine; {numbers}"
            )
        blocks = _is_text_blocks(data["class_path"])
        if blocks and names("--encoder.max_length") and not names("--data.max_length"):
            data["init_args"]["max_length"] = self.config["encoder"]["max_length"]

    def instantiate_classes(self) -> None:
        """Builds encoder, objective, data module and trainer."""
        with user_errors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's Trainer with this package's logs, progress bar and checkpoints.

        What the user sets, by flag or in a file, takes the place of what is added here.
        """
        options = self._get(self.config_init, "trainer")
        root = options["default_root_dir"]
        self.resume_from = find_checkpoint(self.config["resume"], Path(root))
        self.config["resume"] = None  # the run's config.yaml is for new runs
        if options["logger"] in (None, True):
            kwargs["logger"] = run_loggers(root, self.resume_from)
        checkpoint = dict(self.config["checkpoint"])
        files = CheckpointFiles()
        writer = AsyncCheckpointIO(files) if checkpoint.pop("asynchronous") else files
        kwargs["plugins"] = [*_as_list(options["plugins"]), writer]
        given = _as_list(options["callbacks"])
        defaults = _default_callbacks(options, checkpoint).items()
        added = [c for kind, c in defaults if not any(isinstance(g, kind) for g in given)]
        kwargs["callbacks"] = [*given, *added]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"--trainer: {error}") from error
        follow_each_validation(trainer)
        return trainer

    def causal_model(self) -> Objective:
        """The same objective on the same decoder as it was before step 1, to compare with."""
        arguments = {**self.config["encoder"].as_dict(), "bidirectional": False}
        options = self.config["model"]["init_args"].as_dict()
        options.pop("encoder", None)
        model: Objective = type(self.model)(Encoder(**arguments), **options)
        return model

    def fit(self) -> Path | None:
        """Trains, then writes the encoder with the lowest `val/loss` to the run's folder.

        Returns:
            The folder with the encoder; None on all ranks but the first.
        """
        with user_errors(), no_process_left(self.trainer), out_of_memory():
            self.trainer.fit(self.model, self.datamodule, ckpt_path=self.resume_from)
            kept = keep_best(self.trainer, self.model, self.datamodule)
            return save_run(self.trainer, self.name, self.config, kept)


class Parser(LightningArgumentParser):
    """Lightning's parser, but an error is a line or two instead of all the flags there are."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Says what is wrong and exits with code 2."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        classes = {"model": _exported(objectives), "data": _exported(data_modules)}
        fail(explain(message, sys.argv[1:], flags, classes))


def _default_callbacks(
    options: dict[str, Any], checkpoint: dict[str, Any]
) -> dict[type[Callback], Callback]:
    """By the kind of callback that takes the place of each."""
    callbacks: dict[type[Callback], Callback] = {
        SelfCheck: SelfCheck(),
        FiniteGradients: FiniteGradients(),
    }
    if options["enable_checkpointing"] is not False:
        callbacks[ModelCheckpoint] = Checkpoints(**checkpoint)
    if options["logger"] is not False:
        callbacks[LearningRateMonitor] = LearningRateMonitor(logging_interval="step")
    if options["enable_progress_bar"] is not False:
        callbacks[ProgressBar] = RunProgressBar(leave=True)
    return callbacks


def _is_text_blocks(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    return issubclass(getattr(import_module(module), name), TextBlocks)


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given] if given else []


def _class_and_defaults(cls: type, prefix: str, defaults: dict[str, Any]) -> dict[str, Any]:
    arguments = {k.removeprefix(prefix): v for k, v in defaults.items() if k.startswith(prefix)}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def _exported(module: Any) -> list[type]:
    return [getattr(module, name) for name in module.__all__ if name != "Objective"]
