"""Whether what was written embeds texts as the encoder does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError

LEAST_COSINE = 0.9999
LONGEST = 1024
"""Tokens of the longest texts, if the encoder takes as many."""

SHORT = 150
PROMPT = "Retrieve what answers the question: "
SENTENCES = (
    "The ferry leaves the island at dawn and returns with the mail.",
    "sorted(rows, key=lambda row: (row.year, -row.score))[:10]",
    "Die Zugspitze ist mit 2.962 Metern der höchste Berg Deutschlands.",
    "東京は日本の首都であり、人口は約一千四百万人です。",
    "Почему небо синее, а закат красный?",
    "يقرأ الطلاب الكتب في المكتبة كل صباح.",
    "नदी के किनारे एक पुराना पीपल का पेड़ है।",
    "👩\u200d🚀 launched 🚀🚀 — naïve café, ½ off, e\u0301 = é?",
    "He said: \u201cnever!\u201d\tand left\nwithout\r\na word…",
    "What is the boiling point of nitrogen at 1 atm, in kelvin?",
)


@dataclass
class Reference:
    """The encoder's own embeddings of the texts to compare, without and with a prompt.

    Attributes:
        texts: 200 of them.
        prompts: "" and, if there is a use for it, an instruction.
        embeddings: for each prompt, (200, D), of length 1.
        unlike: for each prompt, the texts (200,) of which a program pools another token, as is
            known beforehand.
    """

    texts: list[str]
    prompts: list[str]
    embeddings: list[Tensor]
    unlike: list[Tensor]


@dataclass
class Agreement:
    """How the embeddings of a program compare with the encoder's.

    Attributes:
        program: its name.
        texts: how many were compared.
        passes: without and with a prompt, or only without.
        least: smallest cosine of all but those that are `unlike`.
        mean: of the same.
        unlike: how many there are.
        least_unlike: smallest cosine of these.
    """

    program: str
    texts: int
    passes: str
    least: float
    mean: float
    unlike: int
    least_unlike: float

    def __str__(self) -> str:
        line = (
            f"{self.program} gives the encoder's embeddings of {self.texts} texts, {self.passes}: "
            f"cosine {self.least:.6f} at least, {self.mean:.6f} on average."
        )
        if self.unlike:
            line += (
                f" Not counted are {self.unlike} of the {self.texts} with a prompt, with at least "
                f"{self.least_unlike:.4f}: before a text that begins with a digit or the like, the "
                "prompt's last blank is a token of its own, which sentence-transformers pools. A "
                "prompt that does not end with a blank avoids it."
            )
        return line


def comparison_texts(longest: int) -> list[str]:
    """200 texts in many scripts: 150 of a few words, 46 longer ones, 4 as long as can be read.

    None ends with a blank: `stock_tokenizer` says why.

    Args:
        longest: about the tokens of the longest texts.
    """
    short = [" ".join([*sentence.split()[: 1 + i % 9], str(i)]) for i, sentence in _numbered(SHORT)]
    several = [
        " ".join(islice(cycle(SENTENCES[i % 10 :] + SENTENCES[: i % 10]), 2 + i % 3)) + f" ({i})"
        for i in range(46)
    ]
    words = [word for sentence in SENTENCES for word in sentence.split()]
    long = [" ".join(islice(cycle(words[i:] + words[:i]), longest)) for i in range(4)]
    return short + several + long


def _numbered(count: int) -> list[tuple[int, str]]:
    return list(islice(enumerate(cycle(SENTENCES)), count))


def reference_of(
    encoder: Encoder, batch_size: int, unlike: Callable[[list[str], str], Tensor] | None = None
) -> Reference:
    """Embeds the texts with the encoder, whose weights are made float32 for it.

    Two correct programs differ by more than the comparison allows if they compute in half
    precision. Both sides therefore compute in float32, with the weights that were written.

    Args:
        encoder: with its weights.
        batch_size: most texts at once.
        unlike: texts and prompt -> those (N,) of which another token will be pooled.
    """
    encoder.float()
    texts = comparison_texts(min(LONGEST, encoder.tokenize.max_length))
    named = [prompt for prompt in encoder.prompts.values() if prompt]
    prompts = ["", *named[:1]] if named or encoder.pooling == "weighted_mean" else ["", PROMPT]
    embeddings = [
        encoder.encode(texts, prompt=prompt, batch_size=batch_size, normalize_embeddings=True)
        for prompt in prompts
    ]
    none = torch.zeros(len(texts), dtype=torch.bool)
    apart = [unlike(texts, prompt) if unlike else none for prompt in prompts]
    return Reference(texts, prompts, embeddings, apart)


def require_equal(
    reference: Reference,
    embed: Callable[[Sequence[str], str], Tensor],
    program: str,
    least: float = LEAST_COSINE,
) -> Agreement:
    """Checks that a program's embeddings have a cosine of at least `least` with the encoder's.

    Args:
        reference: the encoder's embeddings.
        embed: texts and prompt -> (N, D).
        program: its name, for the error.
        least: the smallest cosine that is taken for equal.

    Returns:
        The cosines.

    Raises:
        UserError: says which text is farthest off.
    """
    counted, others = [], []
    for prompt, expected, unlike in zip(
        reference.prompts, reference.embeddings, reference.unlike, strict=True
    ):
        got = torch.nn.functional.normalize(embed(reference.texts, prompt).float(), dim=-1)
        cosines = (got * expected).sum(dim=-1).nan_to_num(-1.0)  # (N,)
        _require_cosines(cosines.masked_fill(unlike, 1.0), reference.texts, prompt, program, least)
        counted.append(cosines[~unlike])
        others.append(cosines[unlike])
    equal, apart = torch.cat(counted), torch.cat(others)
    return Agreement(
        program=program,
        texts=len(reference.texts),
        passes="without and with a prompt" if len(reference.prompts) > 1 else "without a prompt",
        least=float(equal.min()),
        mean=float(equal.mean()),
        unlike=len(apart),
        least_unlike=float(apart.min()) if len(apart) else 1.0,
    )


def _require_cosines(
    cosines: Tensor, texts: list[str], prompt: str, program: str, least: float
) -> None:
    worst = int(cosines.argmin())
    if cosines[worst] < least:
        how = f"with the prompt {prompt!r}" if prompt else "without a prompt"
        raise UserError(
            f"{program} does not give the encoder's embeddings: {(cosines < least).sum()} of "
            f"{len(cosines)} texts {how} have a cosine below {least:g} with them. The worst is "
            f"text {worst} with {cosines[worst]:.5f}: {_beginning(texts[worst])}. Nothing was "
            "written."
        )


def pooling_all(reference: Reference, embed: Callable[[Sequence[str], str], Tensor]) -> str:
    """A line on what programs make of the encoder that pool every token they read.

    Args:
        reference: the encoder's embeddings.
        embed: as such a program does: texts and prompt -> (N, D).
    """
    some = range(0, SHORT, 5)
    found = {}
    for prompt, expected in zip(reference.prompts, reference.embeddings, strict=True):
        embeddings = embed([reference.texts[i] for i in some], prompt)
        got = torch.nn.functional.normalize(embeddings.float(), dim=-1)
        found["with" if prompt else "without"] = float((got * expected[some]).sum(dim=-1).mean())
    cosines = " and ".join(f"{value:.3f} {key} a prompt" for key, value in found.items())
    return (
        "Text Embeddings Inference, Infinity and vLLM pool every token that they read, the prompt "
        "and the tokenizer's control tokens too, which the encoder leaves out. Such embeddings of "
        f"short texts have a cosine of {cosines} with the encoder's, on average. Do not mix them "
        "with those of sentence-transformers in one index."
    )


def _beginning(text: str) -> str:
    return repr(text if len(text) < 80 else f"{text[:80]}…")
