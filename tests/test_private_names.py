"""Each private name of another package that this one uses is known, there, and held by a bound."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

import llm2vec_pl

PACKAGE = Path(llm2vec_pl.__file__).parent
PRIVATE = re.compile(r"_[A-Za-z]\w*")

HOOKS = "lightning.pytorch.callbacks"
USES = {
    "_C._nn._parse_to": ("torch", "reads the arguments of Module.to"),
    "_assert_async": ("torch", "checks on a GPU without waiting for it"),
    "_is_amx_tile_supported": ("torch.cpu", "whether a CPU multiplies in bfloat16"),
    "_is_avx512_bf16_supported": ("torch.cpu", "whether a CPU multiplies in bfloat16"),
    "_is_mkldnn_bf16_supported": ("torch.ops.mkldnn", "whether an ARM multiplies in bfloat16"),
    "_subclasses.fake_tensor.FakeTensorMode": ("torch", "measures memory on shapes alone"),
    "utils._python_dispatch.TorchDispatchMode": ("torch", "measures memory on shapes alone"),
    "utils._pytree.tree_leaves": ("torch", "measures memory on shapes alone"),
    "nn.Module()._buffers": ("torch", "finds triangular masks, and fills sharded decoders"),
    "nn.Module()._forward_hooks": ("torch", "undoes what peft does to embeddings"),
    "nn.Module()._modules": ("torch", "puts int8 layers in the place of others"),
    "nn.Module()._parameters": ("torch", "fills sharded decoders, and adds a LoRA to empty ones"),
    "PretrainedConfig()._attn_implementation": ("transformers", "the attention in use"),
    "PreTrainedModel._from_config": ("transformers", "builds a model without weights"),
    "AutoModel._model_mapping": ("transformers", "the classes of a configuration"),
    "PreTrainedModel._keep_in_fp32_modules": ("transformers", "weights that stay in float32"),
    "_CACHED_NO_EXIST": ("huggingface_hub", "a file that the hub does not have"),
    "utilities.cloud_io._is_local_file_protocol": ("lightning.fabric", "paths of other systems"),
    "LightningModule()._trainer": ("lightning.pytorch", "whether there is a trainer"),
    "ModelParallelStrategy()._save_distributed_checkpoint": (
        "lightning.pytorch.strategies",
        "one file or shards",
    ),
    "LightningOptimizer()._optimizer": ("lightning.pytorch.core.optimizer", "torch's optimizer"),
    "LightningCLI._get": ("lightning.pytorch.cli", "reads the parsed flags"),
    "_FitLoop._should_accumulate": ("lightning.pytorch.loops.fit_loop", "between two steps"),
    "_TrainingEpochLoop._should_check_val_fx": (
        "lightning.pytorch.loops.training_epoch_loop",
        "a validation that is due",
    ),
    "_FitLoop()._data_fetcher": ("lightning.pytorch.loops.fit_loop", "a validation that is due"),
    "EarlyStopping()._check_on_train_epoch_end": (HOOKS, "follows each validation"),
    "ModelCheckpoint()._save_on_train_epoch_end": (HOOKS, "follows each validation"),
    "_record_new_keys": ("lightning.pytorch.loggers.csv_logs", "columns of metrics.csv"),
    "_rewrite_with_new_header": ("lightning.pytorch.loggers.csv_logs", "columns of metrics.csv"),
    "_broadcast_sigterm_tensor": ("lightning.pytorch.trainer", "asks no rank in each step"),
    "_actions": ("jsonargparse", "the flags of a parser"),
}
"""Name -> where it lies, and what it is used for. `()`: of an instance."""

NAMEDTUPLE = {"_asdict", "_replace"}  # public, as Python says


def private_names() -> Iterator[tuple[str, str]]:
    """The private names in this package that nothing in it defines, each with its place."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    own = {name for tree in trees.values() for name in _defined(tree)}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            for name in _used(node):
                if PRIVATE.fullmatch(name) and name not in own | NAMEDTUPLE:
                    yield name, f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and _is_set_on_self(node):
            yield node.attr


def _is_set_on_self(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls")


def _used(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("llm2vec_pl"):
        yield from (node.module or "").split(".")
        yield from (name.name for name in node.names)


def test_each_private_name_of_another_package_is_listed() -> None:
    listed = {part for name in USES for part in re.findall(r"\w+", name)}
    unknown = {f"{name} in {place}" for name, place in private_names() if name not in listed}
    assert not unknown, "Take a public name instead, or list it here with what it is used for."


@pytest.mark.parametrize("package", sorted({where.split(".")[0] for where, _ in USES.values()}))
def test_a_package_whose_private_names_are_used_has_an_upper_bound(package: str) -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    bounds = {r.name: r.specifier for r in map(Requirement, project["project"]["dependencies"])}
    name = {"huggingface_hub": "huggingface-hub"}.get(package, package)
    assert any(each.operator in ("<", "~=") for each in bounds[name]), name
    assert version(name) in bounds[name]


@pytest.mark.parametrize("name", [name for name in USES if "()" not in name and "." in name])
def test_a_private_name_is_where_it_was(name: str) -> None:
    where, _ = USES[name]
    place = import_module(where)
    *modules, last = name.split(".")
    for part in modules:
        place = getattr(place, part) if hasattr(place, part) else import_module(f"{where}.{part}")
        where = f"{where}.{part}"
    assert hasattr(place, last) or last in getattr(place, "__annotations__", {})
