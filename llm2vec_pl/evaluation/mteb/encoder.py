"""An encoder in the form that MTEB evaluates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.evaluation.mteb.embeddings import Embeddings
from llm2vec_pl.evaluation.mteb.installed import AbsEncoder, ModelMeta, ScoringFunction
from llm2vec_pl.evaluation.mteb.instructions import PAPER, Instructions

if TYPE_CHECKING:
    import numpy as np
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from numpy.typing import NDArray
    from torch.utils.data import DataLoader


class MTEBEncoder(AbsEncoder):
    """An encoder for `mteb.evaluate`, with the paper's instructions (LLM2Vec, Table 10).

    Args:
        encoder: the encoder.
        name: the model's name in results, `organization/model`.
        revision: the model's revision in results: two that differ in anything have different ones.
        instructions: before the texts of each task; the paper's by default.
        embeddings: embeds the texts; by default, nothing is kept.
        experiment: settings of this evaluation that differ from the model's own, by name.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str = "local/encoder",
        revision: str = "no_revision_available",
        instructions: Instructions | None = None,
        embeddings: Embeddings | None = None,
        experiment: dict[str, Any] | None = None,
    ) -> None:
        self.model = encoder
        self.instructions = instructions or Instructions()
        self.embeddings = embeddings or Embeddings(encoder)
        known = {
            "name": name,
            "revision": revision,
            "languages": ["eng-Latn"],
            "n_parameters": sum(weight.numel() for weight in encoder.parameters()),
            "max_tokens": encoder.tokenize.max_length,
            "embed_dim": encoder.embedding_size,
            "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": self.instructions.source == PAPER,
            "modalities": ["text"],
            "experiment_kwargs": experiment or None,
        }
        self.mteb_model_meta = ModelMeta.create_empty(known)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """The embeddings of one side of a task.

        Args:
            inputs: batches with a list of strings under `text`, N in all.
            task_metadata: the task; its name decides on the instruction.
            hf_split: the data set's split.
            hf_subset: the data set's subset.
            prompt_type: whether these are queries or documents, where a task tells them apart.
            batch_size: most texts that go through the decoder at once.
            kwargs: what MTEB says to models of other kinds.

        Returns:
            (N, D) in float32, not normalised.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        instruction = self.instructions(task_metadata, prompt_type)
        return self.embeddings(texts, instruction, batch_size)
