"""How a recipe becomes a command: constructors' arguments become flags, and a run leaves a folder.

`--encoder.* --model.* --data.* --trainer.*` are the arguments of `Encoder`, of an objective, of a
data module and of Lightning's Trainer; `--config FILE` reads them from YAML, `--resume PATH`
continues from a checkpoint.
"""

from __future__ import annotations

import os
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, DefaultHelpFormatter
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

import llm2vec_pl
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError, fail, print_errors_with, user_errors
from llm2vec_pl.objectives import Objective
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
from llm2vec_pl.training.checkpoints import Checkpoints, follow_each_validation
from llm2vec_pl.training.console import RunProgressBar, silence_noise
from llm2vec_pl.training.demo import comes_from_tiny, look_through
from llm2vec_pl.training.failures import no_process_left, out_of_memory
from llm2vec_pl.training.finite import FiniteGradients
from llm2vec_pl.training.flag_errors import arguments_of, explain, with_flags
from llm2vec_pl.training.lines import on_terminal
from llm2vec_pl.training.memory_check import MemoryCheck
from llm2vec_pl.training.progress_lines import ProgressLines
from llm2vec_pl.training.resume import find_checkpoint, run_loggers
from llm2vec_pl.training.run_folder import PinnedConfig, keep_best, save_run
from llm2vec_pl.training.self_check import SelfCheck

PRINTING = ("-h", "--help", "--print_config")  # these end a command


class Command(LightningCLI):
    """A recipe's command line: parsed, with everything built except the weights.

    Flags override `--config`, which overrides the settings for the embedded decoder. These override
    the recipe's own settings: those of the constructors and `defaults`.

    Args:
        name: name of the recipe; runs go to `runs/NAME` unless `--trainer.default_root_dir` is
            given.
        model: the objective, unless `--model` names another.
        data: the data module, unless `--data` names another; it needs no path, unless it is the
            `reader`. It does not depend on the decoder.
        defaults: defaults of further flags, such as {"trainer.max_steps": 1000}.
        demo: YAML file with settings for the embedded decoder. They apply to it, and to encoders
            trained from it, if there is no `--config`.
        reader: the data module that reads `--data.path` if there is no `--data`.
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
        self.has_data = data is not reader  # the package's own, if no flag names any
        self.demo = demo
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
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose errors take a line or two."""
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
            help="continue a run: `last` for the newest (a new run begins if there is none yet), "
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
        """Parses the command line, with the settings for the embedded decoder if that is trained.

        `--data.path` may be given without `--data`.
        """
        arguments = sys.argv[1:]
        self.given = look_through(arguments)
        if self.reader and self.given.data == "path":
            arguments = [f"--data={self.reader.__name__}", *arguments]
        if self.given.config:
            self.demo = None
        if self.demo:
            self._take_numbers(parser, arguments)
        self.config = parser.parse_args(arguments)

    def _take_numbers(self, parser: LightningArgumentParser, arguments: list[str]) -> None:
        """Uses the settings for the embedded decoder, if that is the one to train."""
        parser.default_config_files = [str(self.demo)]
        # Without the flags that print the settings and end the command: these are not known yet.
        asked = parser.parse_args([a for a in arguments if not a.startswith(PRINTING)])
        name = asked["encoder"]["model_name"]
        if not comes_from_tiny(name):
            self.demo = None
            parser.default_config_files = []
            parser.set_defaults({"encoder.model_name": name})

    def before_instantiate_classes(self) -> None:
        """Prints what the data is if no flag or file names it."""
        if self.given.data is None and self.has_data:
            data = self.config["data"]["class_path"].rpartition(".")[2]
            numbers = f"settings from {self.demo}" if self.demo else "the recipe's own settings"
            rank_zero_info(
                f"{self.name}: without --data, {data}: the documentation of the Python packages on "
                f"this machine; {numbers}"
            )

    def instantiate_classes(self) -> None:
        """Builds encoder, objective, data module and trainer."""
        with user_errors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's Trainer with this package's logs, progress bar and checkpoints.

        Whatever the user sets, by flag or in a file, replaces what is added here.
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
        """The same objective on the same decoder without step 1, for comparison."""
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


class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of a recipe's description."""


class Parser(LightningArgumentParser):
    """Lightning's parser, but an error is a line or two instead of a list of all flags."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses the command line; from then on, library errors name this parser's flags."""
        flags = arguments_of({"encoder": [Encoder], **_public_classes()})
        parsed = super().parse_args(*args, **kwargs)
        # Only now: a class's arguments may have been parsed by a parser of their own.
        print_errors_with(lambda message: with_flags(message, {**flags, **self._own_flags()}))
        return parsed

    def parse_beside_encoder(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parses the command line of a recipe that opens an encoder.

        Returns:
            The flags of the encoder that were given, without the defaults of `Encoder`: what is not
            given stays as the encoder's folder has it. And all other flags.
        """
        values = self.parse_args().as_dict()
        del values["encoder"]
        return dict(self.parse_args(defaults=False).get("encoder", {})), values

    def _own_flags(self) -> dict[str, str]:
        """Flags without a group by the argument's name, such as `mine.py`'s, and `--resume`."""
        all_flags = [flag for action in self._actions for flag in action.option_strings]
        groups = {flag.partition(".")[0] for flag in all_flags if "." in flag}
        own = {flag.lstrip("-"): flag for flag in all_flags if "." not in flag}
        own = {name: flag for name, flag in own.items() if flag not in groups}
        # `Trainer.fit` has another name for it.
        return own | ({"ckpt_path": "--resume"} if "resume" in own else {})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Says what is wrong and exits with code 2."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        fail(explain(message, sys.argv[1:], flags, _public_classes()))


def _default_callbacks(
    options: dict[str, Any], checkpoint: dict[str, Any]
) -> dict[type[Callback], Callback]:
    """Default callbacks, each by the class of callback that replaces it."""
    callbacks: dict[type[Callback], Callback] = {
        SelfCheck: SelfCheck(),
        MemoryCheck: MemoryCheck(),
        FiniteGradients: FiniteGradients(),
    }
    if options["enable_checkpointing"] is not False:
        callbacks[ModelCheckpoint] = Checkpoints(**checkpoint)
    if options["logger"] is not False:
        callbacks[LearningRateMonitor] = LearningRateMonitor(logging_interval="step")
    if options["enable_progress_bar"] is not False:
        callbacks[ProgressBar] = RunProgressBar(leave=True) if on_terminal() else ProgressLines()
    return callbacks


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given] if given else []


def _class_and_defaults(cls: type, prefix: str, defaults: dict[str, Any]) -> dict[str, Any]:
    arguments = {k.removeprefix(prefix): v for k, v in defaults.items() if k.startswith(prefix)}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def _public_classes() -> dict[str, list[type]]:
    """The classes that `--model` and `--data` may give without a module."""
    public = [getattr(llm2vec_pl, name) for name in llm2vec_pl.__all__]
    classes = [each for each in public if isinstance(each, type) and each is not Objective]
    kinds = {"model": Objective, "data": LightningDataModule}
    return {flag: [c for c in classes if issubclass(c, kind)] for flag, kind in kinds.items()}
