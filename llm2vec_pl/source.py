"""Where the parts of an encoder lie, and how they are read: configuration, tokenizer, weights."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from llm2vec_pl.errors import UserError

SETTINGS = "llm2vec_config.json"
LINEAGE = "lineage.json"
EARLIER = "adapters"
ENCODER = "encoder"  # the folder of a run that holds what it has trained
TINY = Path(__file__).parent / "assets" / "tiny"


@dataclass(frozen=True)
class Source:
    """The parts of an encoder.

    Args:
        base: folder or hub name of full weights.
        revision: of the base.
        adapters: folders or hub names of adapters, in the order of merging.
        tokenizer: folder or hub name of the tokenizer.
        folder: the folder that an earlier stage of ours has left, if that is what was named.
    """

    base: str
    revision: str | None
    adapters: tuple[str, ...]
    tokenizer: str
    folder: Path | None = None

    @property
    def tokenizer_revision(self) -> str | None:
        """The revision, where the tokenizer comes with the base."""
        return self.revision if self.tokenizer == self.base else None

    @property
    def base_name(self) -> str:
        """The base as a user would write it."""
        return "tiny" if self.base == str(TINY) else self.base


def locate(name: str, revision: str | None = None) -> Source:
    """Follows a name or folder down to full weights and the adapters on top of them.

    An adapter may name another adapter as its base, as the reference's folders do (MNTP, then
    SimCSE or supervised): they are merged from the lowest to the highest.

    Args:
        name: `tiny`, a folder, or a hub name; of a model or of an adapter. A recipe's folder,
            such as `runs/mntp`, stands for its newest run.
        revision: branch, tag or commit of a hub name.

    Raises:
        UserError: if there is no such folder.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    if name == "tiny":
        return Source(str(TINY), None, (), str(TINY))
    folder = newest_run(Path(name).expanduser())
    if folder.parts[:1] == ("runs",) and not any(folder.glob("*config.json")):
        raise UserError(
            f"--encoder.model_name: there is no finished run in {name}. Train that stage first "
            "(recipes/mntp.py leaves its own in runs/mntp), or name another start, as `tiny`."
        )
    if folder.is_dir():
        name = str(folder.resolve())
    elif _looks_like_a_path(name):
        raise UserError(f"--encoder.model_name: there is no folder {name}.{_nearest(folder)}")
    try:
        adapter_config = find_adapter_config_file(name, revision=revision)
    except OSError as error:
        raise _not_found(name, error) from error
    if adapter_config is None:
        return Source(name, revision, (), name, folder if is_stage(folder) else None)
    return _follow(name, folder, json.loads(Path(adapter_config).read_text()))


def newest_run(folder: Path) -> Path:
    """The encoder that the newest run has left, in `runs/RECIPE` or `runs/RECIPE/version_N`.

    Any other folder is the encoder itself.
    """
    if (folder / ENCODER).is_dir():
        return folder / ENCODER
    runs = [path.parent for path in folder.glob(f"version_*/{ENCODER}") if path.is_dir()]
    numbered = {int(n): run for run in runs if (n := run.name.removeprefix("version_")).isdigit()}
    return numbered[max(numbered)] / ENCODER if numbered else folder


def is_stage(folder: Path) -> bool:
    """Whether a folder is one that `save_encoder` wrote."""
    return (folder / LINEAGE).is_file()


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file.

    Raises:
        UserError: if it is not valid JSON.
    """
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(
            f"{file} is not a JSON object ({error}). Was its writing cut off?"
        ) from error


def read_config(source: Source, trust_remote_code: bool = False) -> PretrainedConfig:
    """The base's configuration: of the text model, where the model reads images too.

    Raises:
        UserError: if it cannot be found or read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            source.base, revision=source.revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_found(source.base, error) from error
    text: PretrainedConfig = config.get_text_config()
    return text


def read_tokenizer(source: Source, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer.

    Raises:
        UserError: if it cannot be found or read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.tokenizer,
            revision=source.tokenizer_revision,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--encoder.model_name: {source.tokenizer} has no tokenizer that can be read "
            f"({_first_line(error)})."
        ) from error
    return tokenizer


def read_settings(source: Source) -> dict[str, Any]:
    """`llm2vec_config.json`, which lies beside the tokenizer; empty where there is none."""
    from transformers.utils import cached_file

    file = cached_file(
        source.tokenizer,
        SETTINGS,
        revision=source.tokenizer_revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return read_json(Path(file)) if file else {}


def rendered_template(source: Source) -> str | None:
    """The chat template as an earlier stage has rendered it; None where there is none."""
    rendered = read_settings(source).get("rendered_template")
    return rendered if isinstance(rendered, str) else None


def require_weights(base: str) -> None:
    """Checks that a local folder holds weights, without reading them.

    Raises:
        UserError: if it has none.
    """
    folder = Path(base)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise UserError(
            f"--encoder.model_name: {base} has no weights (*.safetensors), only {found}. Name a "
            "folder that has them, or set --encoder.random_weights true to train from scratch."
        )


def _follow(name: str, folder: Path, adapter_config: dict[str, Any]) -> Source:
    base = read_json(folder / SETTINGS).get("base_model")
    below = locate(
        base or adapter_config["base_model_name_or_path"], adapter_config.get("revision")
    )
    earlier: Sequence[Path] = ()
    if (folder / EARLIER).is_dir():
        earlier = sorted((folder / EARLIER).iterdir(), key=lambda path: int(path.name))
    adapters = (*below.adapters, *(str(path) for path in earlier), name)
    return Source(below.base, below.revision, adapters, name, folder if is_stage(folder) else None)


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")


def _nearest(folder: Path) -> str:
    if not folder.parent.is_dir():
        return ""
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    match = difflib.get_close_matches(folder.name, siblings, n=1)
    return f" Did you mean {folder.parent / match[0]}?" if match else ""


def _not_found(name: str, error: Exception) -> UserError:
    return UserError(
        f"--encoder.model_name: {name} is neither `tiny`, nor a folder with a model, nor a model "
        f"that the hub gave us ({_first_line(error)})."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
