"""The encoder in a process of its own, as LitServe runs it."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any

import torch
from litserve import LitAPI
from transformers.utils.logging import disable_progress_bar

from llm2vec_pl.encoder import DOCUMENT, QUERY, Encoder, first_of
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.server.loop import SharingLoop
from llm2vec_pl.use.server.processes import end_with_parent
from llm2vec_pl.use.server.refusal import Refusal
from llm2vec_pl.use.server.request import Asked
from llm2vec_pl.use.server.shares import Job

TOKENS_ON_A_CPU = 2048
"""As many as `Encoder.encode` sends through a decoder in half precision at once there."""

TOKENS_ON_A_GPU = 32_768

_BY_INPUT_TYPE = {"query": QUERY, "document": DOCUMENT}
"""As `encode_query` and `encode_document` look for their prompts; other names are those of one."""


class EncoderAPI(LitAPI):
    """Requests for embeddings -> embeddings.

    Args:
        model_name: a stage's folder, or any `model_name` of `Encoder`.
        overrides: arguments of `Encoder.from_pretrained`.
        batch_tokens: most tokens that are encoded together; None leaves it to the device.
        seconds: how long a client waits.
        spec: the HTTP side.
        workers: how many processes like this one share a device.
    """

    def __init__(
        self,
        model_name: str,
        overrides: dict[str, Any],
        batch_tokens: int | None,
        seconds: float,
        spec: Any = None,
        workers: int = 1,
    ) -> None:
        super().__init__(spec=spec, loop=SharingLoop())
        self.model_name, self.overrides = model_name, overrides
        self.batch_tokens = batch_tokens or TOKENS_ON_A_CPU
        self._leave_it_to_the_device = batch_tokens is None
        self.seconds = seconds
        self.workers = workers
        self._stopping = False

    def setup(self, device: str) -> None:
        """Loads the encoder; a fault that the user can mend ends the process with code 2.

        Any other ends it with code 1, and shows its traceback: LitServe would only log it, at a
        level that is not shown.
        """
        end_with_parent()
        # Ctrl-C reaches every process of the terminal; this one stops when the answers are sent.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop)
        disable_progress_bar()
        try:
            self._load(torch.device(device))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    def _load(self, device: torch.device) -> None:
        self.encoder = Encoder.from_pretrained(self.model_name, **self.overrides).to(device)
        if device.type == "cpu" and self.workers > 1:  # loading has lowered them to usable cores
            torch.set_num_threads(max(1, torch.get_num_threads() // self.workers))
        if self._leave_it_to_the_device and device.type != "cpu":
            self.batch_tokens = TOKENS_ON_A_GPU
        self.encoder.encode("warm up")

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def is_stopping(self) -> bool:
        """Whether the process has been asked to end."""
        return self._stopping

    def job(self, asker: Any, asked: Asked, since: float) -> Job:
        """A request as work to be done.

        Args:
            asker: who gets the answer.
            asked: the request.
            since: when it came, in seconds of `time.monotonic`.

        Raises:
            Refusal: if there is no such prompt, or too many dimensions are asked for.
        """
        prompt = self._prompt(asked.input_type)
        size = self.encoder.embedding_size
        if asked.dimensions is not None and asked.dimensions > size:
            raise Refusal(
                400,
                f"`dimensions` is {asked.dimensions}, but an embedding has {size}.",
                "dimensions",
            )
        lengths = self.encoder.tokenize.lengths(asked.texts, prompt)
        return Job(asker, asked, prompt, lengths, since + self.seconds)

    def _prompt(self, name: str | None) -> str:
        if name is None:
            return ""
        prompts = self.encoder.prompts
        found = first_of(_BY_INPUT_TYPE.get(name, (name,)), prompts)
        if found is None and name not in _BY_INPUT_TYPE:
            known = ", ".join(sorted({*_BY_INPUT_TYPE, *prompts}))
            raise Refusal(
                400,
                f"`input_type` is the name of a prompt ({known}), but got {name!r}.",
                "input_type",
            )
        return "" if found is None else prompts[found]

    def predict(self, share: list[tuple[Job, list[int]]], **kwargs: Any) -> None:
        """Encodes these texts of each job together, and gives each job its embeddings."""
        texts = [job.asked.texts[place] for job, places in share for place in places]
        prompts = [job.prompt for job, places in share for _ in places]
        embeddings = self.encoder.encode(texts, prompts, batch_size=len(texts))
        parts = embeddings.split([len(places) for _, places in share])
        for (job, _places), part in zip(share, parts, strict=True):
            job.add(part)
