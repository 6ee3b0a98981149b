"""How many tokens examples have, counted once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from llm2vec_pl.data.examples.instructions import Instruction
from llm2vec_pl.encoder import TextTokenizer, tokenizer_content
from llm2vec_pl.files import cached_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

    from llm2vec_pl.data.examples.example import Candidates

    Counts = NDArray[np.int64]

CHARACTERS_PER_TOKEN = 64  # more than in any language; a longer text is cut before it is tokenised
_FORMAT = 1  # of what is cached


class TokenCounter:
    """Counts the tokens of a task's texts in a batch, without padding.

    If a batch draws one of several instructions, the one with the most tokens counts.

    Args:
        text: the encoder's tokenizer.
        instruction: the task's instruction.
        name: name of what is counted, for the line that announces it.
    """

    def __init__(self, text: TextTokenizer, instruction: Instruction, name: str) -> None:
        self.tokenize = text
        self.name = name
        self._before_queries = instruction.texts
        self._before_texts = instruction.texts if instruction.symmetric else ("",)

    def kept(self, rows: dict[str, Any], count: Callable[[], Counts]) -> Counts:
        """Counts from the cache, memory-mapped; counted first if they are not there yet.

        Args:
            rows: JSON that changes when the rows' texts do.
            count: counts the rows' tokens.
        """
        tokenizer = cast("PreTrainedTokenizerFast", self.tokenize.tokenizer)
        recipe = {
            "format": _FORMAT,
            "rows": rows,
            "tokenizer": tokenizer_content(tokenizer),
            **self.tokenize.rules,
            "chat_template": tokenizer.chat_template,
            "instructions": [self._before_queries, self._before_texts],
        }

        def write(folder: Path) -> None:
            rank_zero_info(f"{self.name}: counting tokens, once; the counts are kept on disk.")
            np.save(folder / "tokens.npy", count())

        folder = cached_folder("token-counts", recipe, write)
        counts: Counts = np.load(folder / "tokens.npy", mmap_mode="r")
        return counts

    def most(self, rows: Sequence[Candidates], max_negatives: int | None = None) -> list[int]:
        """The most tokens that an example of each row can have, whichever texts an epoch draws.

        Args:
            rows: rows with all their texts.
            max_negatives: the most negatives that an epoch draws; None: all.
        """
        positives = [list(row.positives) or [row.query] for row in rows]
        queries = [row.query for row in rows]
        others = [text for row, some in zip(rows, positives, strict=True) for text in some]
        others += [text for row in rows for text in row.negatives]
        if self._before_queries == self._before_texts:
            of_query = of_text = self._distinct([*queries, *others], self._before_texts)
        else:
            of_query = self._distinct(queries, self._before_queries)
            of_text = self._distinct(others, self._before_texts)
        return [
            of_query[row.query]
            + max(of_text[text] for text in some)
            + sum(sorted((of_text[t] for t in row.negatives), reverse=True)[:max_negatives])
            for row, some in zip(rows, positives, strict=True)
        ]

    def queries(self, texts: Sequence[str]) -> Counts:
        """The number of tokens of queries, each with the task's instruction, (texts,)."""
        return self._count(texts, self._before_queries)

    def texts(self, texts: Sequence[str]) -> Counts:
        """The number of tokens of positives or negatives, (texts,)."""
        return self._count(texts, self._before_texts)

    def _distinct(self, texts: Iterable[str], instructions: Sequence[str]) -> dict[str, int]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._count(distinct, instructions).tolist(), strict=True))

    def _count(self, texts: Sequence[str], instructions: Sequence[str]) -> Counts:
        counts = [self._under(texts, instruction) for instruction in instructions]
        most: Counts = np.max(counts, axis=0)
        return most

    def _under(self, texts: Sequence[str], instruction: str) -> Counts:
        """As in `Tokenised`: only the beginning of a very long text, if that suffices."""
        longest = CHARACTERS_PER_TOKEN * self.tokenize.max_length
        counts = np.array(
            self.tokenize.lengths([text[:longest] for text in texts], instruction), int
        )
        for i, text in enumerate(texts):
            if len(text) > longest and counts[i] < self.tokenize.max_length:
                counts[i] = self.tokenize.lengths([text], instruction)[0]
        return counts
