"""The contents of the folder of a model, an adapter or a stage, on disk or on the hub."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder.hub import fetch, known_to_be_absent
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json

SETTINGS = "llm2vec_config.json"
LINEAGE = "lineage.json"
EARLIER = "adapters"
ENCODER = "encoder"  # in a run's folder, holds the encoder that it trained


def newest_run(folder: Path) -> Path:
    """The encoder of the newest run in `runs/RECIPE` or `runs/RECIPE/version_N`.

    Any other folder is returned as it is.
    """
    if (folder / ENCODER).is_dir():
        return folder / ENCODER
    runs = [path.parent for path in folder.glob(f"version_*/{ENCODER}") if path.is_dir()]
    numbered = {int(n): run for run in runs if (n := run.name.removeprefix("version_")).isdigit()}
    return numbered[max(numbered)] / ENCODER if numbered else folder


def is_stage(folder: Path) -> bool:
    """Whether `save_encoder` wrote this folder."""
    return (folder / LINEAGE).is_file()


def adapter_settings(folder: str) -> dict[str, Any]:
    """What an adapter's folder records about its training; empty if it is not one of ours."""
    settings = read_json(Path(folder) / SETTINGS)
    if settings and "quantization" not in settings:  # from before this was recorded
        stages = read_json(Path(folder) / LINEAGE).get("stages") or [{}]
        settings["quantization"] = _encoder_flags(stages[-1]).get("quantization")
    return settings


def settings_of(name: str, revision: str | None) -> dict[str, Any]:
    """`llm2vec_config.json` of a folder or hub name; empty if there is none."""
    file = fetch(name, SETTINGS, revision)
    if file is None:
        return {}
    settings = read_json(file)
    if "quantization" not in settings and fetch(name, LINEAGE, revision) is not None:
        recorded = adapter_settings(str(file.parent))
        settings["quantization"] = recorded["quantization"] if recorded else None
    return settings


def stage_folder(name: str, revision: str | None) -> Path | None:
    """The folder of one of our stages, on disk or fetched from the hub; None for anything else."""
    if not Path(name).is_dir() and fetch(name, SETTINGS, revision) is None:
        return None  # saves a second request for most models on the hub
    lineage = fetch(name, LINEAGE, revision)
    return lineage.parent if lineage else None


def earlier_adapters(
    name: str, revision: str | None, settings: dict[str, Any], folder: Path | None
) -> list[str]:
    """The folders of the adapters that a stage merged before it trained its own."""
    recorded = settings.get("earlier_adapters")
    found: list[str] = []
    for i in itertools.count() if recorded is None else range(len(recorded)):
        where = f"{EARLIER}/{i}"
        config = fetch_adapter_config(name, revision, where)
        if config is not None:
            found.append(fetch_adapter(name, revision, config, where))
            continue
        if recorded is not None or not _is_complete(name, revision, where, folder, found):
            raise UserError(
                f"{name} was trained on top of an earlier adapter, but its {where} is missing. "
                "Copy the whole folder; if it is on the hub, download it while online: hf "
                f"download {name}."
            )
        break
    return found


def _is_complete(
    name: str, revision: str | None, where: str, folder: Path | None, found: list[str]
) -> bool:
    """Whether all earlier adapters were found, in a folder that does not record how many it has."""
    if found or known_to_be_absent(name, f"{where}/adapter_config.json", revision):
        return True
    stages = read_json(folder / LINEAGE).get("stages", []) if folder else []
    return len(stages) < 2 or not _encoder_flags(stages[-2]).get("lora_rank")


def fetch_adapter_config(name: str, revision: str | None, subfolder: str = "") -> Path | None:
    """The file that marks an adapter; None if there is none."""
    return fetch(name, "adapter_config.json", revision, subfolder)


def fetch_adapter(name: str, revision: str | None, config: Path, subfolder: str = "") -> str:
    """The folder of an adapter, with all of its files fetched."""
    if fetch(name, "adapter_model.safetensors", revision, subfolder) is None:
        raise UserError(
            f"The adapter {'/'.join(filter(None, [name, subfolder]))} has no "
            "adapter_model.safetensors, and other formats may run code when they are read. If you "
            "trust it, open it with peft and save it again: save_pretrained writes safetensors."
        )
    fetch(name, SETTINGS, revision, subfolder)
    return str(config.parent)


def _encoder_flags(stage: dict[str, Any]) -> dict[str, Any]:
    """The `--encoder` flags of a stage in the lineage, if it has any."""
    config = stage.get("config")
    flags = config.get("encoder") if isinstance(config, dict) else None
    return flags if isinstance(flags, dict) else {}
