"""MTEB's tasks on local files: its own classes, and so its own evaluation, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm2vec_pl.data.files import extension
from llm2vec_pl.decoder import file_contents
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb.installed import (
    AbsTask,
    AbsTaskAggregate,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    TaskMetadata,
)
from llm2vec_pl.evaluation.mteb.local_files import (
    FOLDERS,
    READERS,
    Splits,
    finds_itself,
    is_task,
)
from llm2vec_pl.evaluation.mteb.tasks import Tasks, known_task
from llm2vec_pl.files import fingerprint

# Kind -> MTEB's type, class, main score and category of a task that MTEB does not know.
KINDS: dict[str, tuple[str, type[AbsTask], str, str]] = {
    "sts": ("STS", AbsTaskSTS, "cosine_spearman", "t2t"),
    "retrieval": ("Retrieval", AbsTaskRetrieval, "ndcg_at_10", "t2t"),
    "reranking": ("Reranking", AbsTaskRetrieval, "map_at_1000", "t2t"),
    "classification": ("Classification", AbsTaskClassification, "accuracy", "t2c"),
    "clustering": ("Clustering", AbsTaskClustering, "v_measure", "t2c"),
    "pair_classification": ("PairClassification", AbsTaskPairClassification, "max_ap", "t2t"),
}
MOST_IN_A_CLUSTERING = 16_384  # texts, drawn with replacement; MTEB's own number


def local_tasks(folder: str | Path) -> Tasks:
    """The tasks in a folder, KIND/NAME, by name; their data is read when they are evaluated.

    A task with the name of one of MTEB's has that task's class, and so its settings.

    Args:
        folder: has a folder for each kind: `sts`, `retrieval`, `reranking`, `classification`,
            `clustering` or `pair_classification`, with a file or folder for each task.

    Raises:
        UserError: if there is no such folder or no task in it, two tasks have one name, or a task
            of MTEB's name is of another kind than MTEB's.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"`data_dir`: expected a folder, but there is none at {root}.")
    found: dict[str, Path] = {}
    tasks: Tasks = {}
    for kind in KINDS:
        for path in sorted((root / kind).glob("*")):
            if not is_task(kind, path):
                continue
            name = path.name if path.is_dir() else path.name.removesuffix(extension(path))
            if name in found:
                raise UserError(f"`data_dir`: two tasks are called {name}: {found[name]}, {path}.")
            found[name] = path
            tasks[name] = _task(kind, name, path)
    if not tasks:
        raise UserError(
            f"`data_dir`: found no task in {root}. Expected KIND/TASK, such as sts/mine.jsonl or "
            f"retrieval/mine/corpus.jsonl, where KIND is {', '.join(KINDS)}."
        )
    return tasks


def _task(kind: str, name: str, path: Path) -> AbsTask:
    known = known_task(name)
    if known is not None:
        return _like(known, kind, path)
    of_type, base, main_score, category = KINDS[kind]
    split = _split(kind, path)
    settings: dict[str, Any] = {}
    if kind == "retrieval":
        settings["ignore_identical_ids"] = finds_itself(path, split)
    if kind == "clustering":
        settings["max_fraction_of_documents_to_embed"] = None
    metadata = TaskMetadata(
        name=name,
        description=f"The local data of {path.name}.",
        dataset={"path": str(path), "revision": _contents(path)},
        type=of_type,
        category=category,
        modalities=["text"],
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        prompt=base.abstask_prompt,
    )
    return _with_local_data(base, metadata, kind, path, settings)


def _like(known: AbsTask, kind: str, path: Path) -> AbsTask:
    """MTEB's own task, with local data in the place of the hub's."""
    metadata = known.metadata
    if isinstance(known, AbsTaskAggregate) or metadata.type != KINDS[kind][0]:
        folders = [each for each, (of_type, *_) in KINDS.items() if of_type == metadata.type]
        where = f"Put it into {folders[0]}/" if folders else "Give it another name"
        raise UserError(f"`data_dir`: {path} has the name of a task of {metadata.type}. {where}.")
    if len(known.hf_subsets) != 1:
        raise UserError(
            f"`data_dir`: {path} has the name of a task in {len(known.hf_subsets)} parts, and "
            "local data is one part. Give it another name."
        )
    changed = {
        "dataset": {"path": str(path), "revision": _contents(path)},
        "eval_splits": [_split(kind, path) if kind in FOLDERS else known.eval_splits[-1]],
    }
    metadata = metadata.model_copy(update=changed)
    task = _with_local_data(type(known), metadata, kind, path, {})
    task.hf_subsets = known.hf_subsets
    return task


def _with_local_data(
    base: type[AbsTask], metadata: TaskMetadata, kind: str, path: Path, settings: dict[str, Any]
) -> AbsTask:
    """A task of a class of MTEB's whose data comes from a file or folder."""

    def load_data(self: AbsTask, *args: Any, **kwargs: Any) -> None:
        if self.data_loaded:
            return
        (split,) = self.metadata.eval_splits
        splits = READERS[kind](path, split)
        _fit(self, splits, split)
        self.dataset = dict.fromkeys(self.hf_subsets, splits)
        self.data_loaded = True

    contents = {**settings, "metadata": metadata, "load_data": load_data}
    return type(base.__name__, (base,), contents)()  # type: ignore[no-any-return]


def _fit(task: AbsTask, splits: Splits, split: str) -> None:
    """What a class of clustering wants in another form."""
    data = splits[split]
    if isinstance(task, AbsTaskClusteringLegacy):  # a row is a whole set of texts
        splits[split] = type(data).from_dict({name: [data[name][:]] for name in data.features})
    elif isinstance(task, AbsTaskClustering):
        task.max_documents_per_cluster = min(len(data), MOST_IN_A_CLUSTERING)


def _split(kind: str, path: Path) -> str:
    """The split to evaluate: `test`, or the only one there is."""
    if kind not in FOLDERS:
        return "test"
    files = path.glob("qrels/*.tsv" if kind == "retrieval" else "*")
    splits = sorted({file.name.split(".")[0] for file in files if not file.name.startswith(".")})
    others = [split for split in splits if split != "train"]
    return others[0] if len(others) == 1 else "test"


def _contents(path: Path) -> str:
    """Changes when the data does, so that results of other data are not taken for this one's."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return fingerprint({"files": list(file_contents([str(file) for file in files]).values())})
