"""What is used of the package `mteb`, imported here, so that its absence is one clear error."""

from llm2vec_pl.errors import UserError

try:
    import mteb
    from mteb.abstasks import (
        AbsTask,
        AbsTaskClassification,
        AbsTaskClustering,
        AbsTaskClusteringLegacy,
        AbsTaskPairClassification,
        AbsTaskRetrieval,
        AbsTaskSTS,
    )
    from mteb.abstasks.abstask import get_abstask_prompt
    from mteb.abstasks.aggregated_task import AbsTaskAggregate
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.cache import ResultCache
    from mteb.get_tasks import TASK_LIST
    from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.results import TaskResult
except ImportError as error:
    raise UserError(
        f'MTEB\'s tasks need the package mteb ({error}). Run pip install "llm2vec_pl[mteb]".'
    ) from error

__all__ = [
    "TASK_LIST",
    "AbsEncoder",
    "AbsTask",
    "AbsTaskAggregate",
    "AbsTaskClassification",
    "AbsTaskClustering",
    "AbsTaskClusteringLegacy",
    "AbsTaskPairClassification",
    "AbsTaskRetrieval",
    "AbsTaskSTS",
    "ModelMeta",
    "ResultCache",
    "ScoringFunction",
    "TaskMetadata",
    "TaskResult",
    "get_abstask_prompt",
    "get_prompt_name",
    "mteb",
]
