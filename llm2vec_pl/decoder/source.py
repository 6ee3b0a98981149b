"""Finds the parts of an encoder and reads them: configuration, tokenizer, weights."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from llm2vec_pl.decoder.gguf import unpacked
from llm2vec_pl.decoder.gguf_place import gguf_place, on_the_hub
from llm2vec_pl.decoder.hub import commit_of, display_name, fetch, split_revision
from llm2vec_pl.decoder.parts import Source as Source
from llm2vec_pl.decoder.short_names import (
    ASSETS,
    PACKAGED,
    bundled_folder,
    how_to_get,
    warn_of_a_folder,
)
from llm2vec_pl.decoder.stage_folder import EARLIER as EARLIER
from llm2vec_pl.decoder.stage_folder import ENCODER as ENCODER
from llm2vec_pl.decoder.stage_folder import LINEAGE as LINEAGE
from llm2vec_pl.decoder.stage_folder import SETTINGS as SETTINGS
from llm2vec_pl.decoder.stage_folder import adapter_settings as adapter_settings
from llm2vec_pl.decoder.stage_folder import (
    earlier_adapters,
    fetch_adapter,
    fetch_adapter_config,
    settings_of,
    stage_folder,
)
from llm2vec_pl.decoder.stage_folder import newest_run as newest_run
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json as read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
TINY = ASSETS / "tiny"


def locate(name: str, revision: str | None = None) -> Source:
    """Follows a name or folder down to full weights and the adapters on top of them.

    An adapter may name another adapter as its base, as the reference's folders do (MNTP, then
    SimCSE or supervised): they are merged from the bottom up. From the hub, adapters are fetched
    whole, and of full weights only the configuration.

    Args:
        name: a short name such as `tiny`, a folder, or a hub name, of a model or of an adapter; or
            a GGUF, as in `gguf_place`. A recipe's folder, such as `runs/mntp`, stands for its
            newest run; a hub name may be `org/name@revision`. A short name takes precedence over
            a folder.
        revision: branch, tag or commit of a hub name.

    Raises:
        UserError: if the folder does not exist, or a part of it is missing.
    """
    warn_of_a_folder(name)
    if place := gguf_place(name, revision):
        base, original = unpacked(place.parts, place.name)
        commit = place.revision
        return Source(str(base), commit, (), str(base), None, commit, original=original)
    if name in PACKAGED:
        name = on_the_hub(name, revision)
    if folder := bundled_folder(name):
        name, revision = str(folder), None
    hub_name, named_revision = split_revision(name)
    if revision is None:
        name, revision = hub_name, named_revision
    name, revision = _folder_or_hub_name(name, revision)
    try:
        adapter_config = fetch_adapter_config(name, revision)
        config = adapter_config or fetch(name, "config.json", revision)
        revision = _pinned(name, revision, config)
        if adapter_config is not None:
            return _follow(name, revision, adapter_config)
        folder = stage_folder(name, revision)
    except OSError as error:
        raise _not_found(name, error) from error
    return Source(name, revision, (), name, folder, revision)


def locate_adapter(name: str) -> Source:
    """An adapter by itself, to be put on weights that are named elsewhere.

    Args:
        name: folder, hub name, or `org/name@revision`.

    Returns:
        A source whose base is empty.

    Raises:
        UserError: if there is no such adapter.
    """
    name = str(bundled_folder(name) or name)
    name, revision = _folder_or_hub_name(*split_revision(name), argument="`adapters`")
    try:
        config = fetch_adapter_config(name, revision)
        if config is None:
            raise UserError(
                f"`adapters`: {name} is not an adapter, as it has no adapter_config.json. Give "
                "full weights as `model_name`."
            )
        revision = _pinned(name, revision, config)
        folder = fetch_adapter(name, revision, config)
        settings = settings_of(name, revision)
    except OSError as error:
        raise _not_found(name, error, "`adapters`: expected a folder with an adapter") from error
    return Source("", None, (folder,), name, None, revision, _trained_on(folder, settings))


def _folder_or_hub_name(
    name: str, revision: str | None, argument: str = "`model_name`"
) -> tuple[str, str | None]:
    folder = newest_run(Path(name).expanduser())
    if folder.parts[:1] == ("runs",) and not any(folder.glob("*config.json")):
        raise UserError(
            f"{argument}: there is no finished run in {name}. Train that stage first "
            "(recipes/mntp.py leaves its run in runs/mntp), or start from another model, such as "
            "`tiny`."
        )
    if folder.is_dir():
        return str(folder.resolve()), None
    if _looks_like_a_path(name):
        hint = _nearest(folder) or " Check the path."
        raise UserError(f"{argument}: there is no folder {name}.{hint}")
    return name, revision


def read_config(source: Source, trust_remote_code: bool = False) -> PretrainedConfig:
    """The base's configuration; if it reads images too, that of its text model.

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
    """The encoder's tokenizer.

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
            f"`model_name`: {source.tokenizer} has no tokenizer that can be read "
            f"({_first_line(error)}). Name a model that comes with one."
        ) from error
    return tokenizer


def read_settings(source: Source) -> dict[str, Any]:
    """`llm2vec_config.json` of what the user named; empty if there is none."""
    name, revision = source.named or (source.tokenizer, source.tokenizer_revision)
    return settings_of(name, revision)


def weight_files(source: Source) -> list[str]:
    """The safetensors files of the base, fetched if the hub's cache lacks them."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
    from transformers.utils.hub import get_checkpoint_shard_files

    if file := fetch(source.base, SAFE_WEIGHTS_NAME, source.revision):
        return [str(file)]
    index = fetch(source.base, SAFE_WEIGHTS_INDEX_NAME, source.revision)
    if index is None:
        return []
    paths, _ = get_checkpoint_shard_files(source.base, str(index), revision=source.revision)
    return [str(path) for path in paths]


def rendered_template(source: Source) -> str | None:
    """The chat template as an earlier stage rendered it; None if there is none."""
    rendered = read_settings(source).get("rendered_template")
    return rendered if isinstance(rendered, str) else None


def require_weights(base: str) -> None:
    """Checks that a local folder holds weights, without reading them.

    Raises:
        UserError: if it has none.
    """
    folder = Path(base)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        if ggufs := sorted(folder.glob("*.gguf")):
            raise UserError(f"`model_name`: name a GGUF itself, not its folder: {ggufs[0]}.")
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise UserError(
            f"`model_name`: {base} has no weights (*.safetensors): it holds {found}. Name a folder "
            "that has them, or set `random_weights=True` to train from scratch."
        )


def _follow(name: str, revision: str | None, adapter_config: Path) -> Source:
    """The parts of an adapter: its base and the adapters on that, its earlier adapters, itself."""
    settings = settings_of(name, revision)
    folder = stage_folder(name, revision)
    below = _base_of(name, adapter_config, settings, folder)
    earlier = earlier_adapters(name, revision, settings, folder)
    own = fetch_adapter(name, revision, adapter_config)
    # Name its folder: offline, transformers finds no hub tokenizer without a config.json.
    tokenizer_files = [fetch(name, file, revision) for file in TOKENIZER_FILES]
    has_tokenizer = any(tokenizer_files)
    return replace(
        below,
        adapters=(*below.adapters, *earlier, own),
        tokenizer=own if has_tokenizer else below.tokenizer,
        folder=folder,
        tokenizer_revision=None if has_tokenizer else below.tokenizer_revision,
        trained_on=(*below.trained_on, *_trained_on(own, settings)),
        named=(name, revision),
    )


def _base_of(
    name: str, adapter_config: Path, settings: dict[str, Any], folder: Path | None
) -> Source:
    """What an adapter was trained on."""
    config = read_json(adapter_config)
    base = settings.get("base_model") or config.get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"The adapter {name} does not say what it was trained on. Give that as `model_name`, "
            "and the adapter in `adapters`."
        )
    revision = settings.get("base_revision") or config.get("revision")
    lineage = read_json(folder / LINEAGE) if folder else {}
    if revision is None and lineage.get("base_model") == base:
        revision = lineage.get("revision")  # older folders, whose adapter does not say
    try:
        source = locate(base, revision)
        if base in PACKAGED and settings.get("base_file") and source.original is None:
            raise UserError(f"{source.base} on the hub has other weights. {how_to_get(base)}")
        return source
    except UserError as error:
        raise UserError(
            f"The adapter {name} was trained on {base}, which cannot be opened: {error} If it is "
            f'somewhere else now, write its place as "base_model" in {SETTINGS} or as '
            '"base_model_name_or_path" in adapter_config.json, or give it as `model_name` and the '
            "adapter in `adapters`."
        ) from error


def _pinned(name: str, revision: str | None, file: Path | None) -> str | None:
    """The commit of a hub name, which does not move as a branch or a tag may."""
    return None if Path(name).is_dir() else commit_of(file) or revision


def _trained_on(adapter: str, settings: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    fingerprint = settings.get("base_fingerprint")
    return ((display_name(adapter), fingerprint),) if fingerprint else ()


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")


def _nearest(folder: Path) -> str:
    if not folder.parent.is_dir():
        return ""
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    match = difflib.get_close_matches(folder.name, siblings, n=1)
    return f" Did you mean {folder.parent / match[0]}?" if match else ""


def _not_found(
    name: str,
    error: Exception,
    expected: str = "`model_name`: expected `tiny`, a folder with a model, a GGUF",
) -> UserError:
    return UserError(
        f"{expected} or the name of one on the hub, but {name} cannot be opened "
        f"({_first_line(error)}). Check the name, and the network if it is on the hub."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
