"""The process that encodes: takes requests from the queue, a share of their texts at a time."""

from __future__ import annotations

import logging
import time
from queue import Empty
from typing import TYPE_CHECKING, Any

from litserve.loops import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.server.refusal import Refusal
from llm2vec_pl.use.server.reply import Answer
from llm2vec_pl.use.server.shares import Job, least_tokens, next_share

if TYPE_CHECKING:
    from llm2vec_pl.use.server.api import EncoderAPI

_LOOKS_UP_EVERY = 0.5  # seconds without a request

_log = logging.getLogger(__name__)


class SharingLoop(LitLoop):
    """Encodes whatever waits when the device becomes free, up to a number of tokens at once.

    LitServe's own batching counts requests, not texts, looks for new ones a thousand times a
    second, and lets one bad request fail all others of its batch.
    """

    def __call__(
        self,
        lit_api: EncoderAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        """Runs until the process is asked to stop and nobody waits any more."""
        jobs: list[Job] = []
        try:
            while True:
                stopping = lit_api.is_stopping()  # before the queue is looked into
                jobs += self._new_jobs(lit_api, request_queue, transport, jobs)
                jobs = [job for job in jobs if time.monotonic() < job.deadline]
                if jobs:
                    jobs = self._encode_share(lit_api, transport, jobs)
                elif stopping:
                    return
        except (EOFError, ConnectionError):  # the queues have gone with the main process
            return

    def _new_jobs(self, api: EncoderAPI, queue: Any, transport: Any, jobs: list[Job]) -> list[Job]:
        """Takes requests from the queue while there is room for a text of each in one share."""
        new: list[Job] = []
        while least_tokens(jobs + new) < api.batch_tokens:
            try:
                if jobs or new:
                    consumer, uid, since, asked = queue.get_nowait()
                else:
                    consumer, uid, since, asked = queue.get(timeout=_LOOKS_UP_EVERY)
            except Empty:
                break
            asker = (consumer, uid)
            try:
                new.append(api.job(asker, asked, since))
            except Exception as error:
                self._reply(transport, asker, _as_refusal(error))
        return new

    def _encode_share(self, api: EncoderAPI, transport: Any, jobs: list[Job]) -> list[Job]:
        """Encodes a share and answers what is complete; returns the jobs that are left."""
        share = next_share(jobs, api.batch_tokens)
        failed = []
        try:
            api.predict(share)
        except Exception:  # then each for itself: one text must not fail the requests of others
            for job, places in share:
                try:
                    api.predict([(job, places)])
                except Exception as error:
                    failed.append(job)
                    self._reply(transport, job.asker, _as_refusal(error))
        for job, _ in share:
            if job.is_complete:
                self._reply(transport, job.asker, job.answer())
        served = [job for job, _ in share]
        left_out = [job for job in jobs if job not in served]
        return left_out + [job for job in served if job not in failed and not job.is_complete]

    def _reply(self, transport: Any, asker: tuple[int, str], answer: Answer | Refusal) -> None:
        consumer, uid = asker
        self.put_response(
            transport, consumer, uid, answer, LitAPIStatus.OK, LoopResponseType.REGULAR
        )


def _as_refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        return Refusal(400, str(error), "input")
    _log.error("A request could not be encoded.", exc_info=error)
    return Refusal(500, "The server could not encode this; its log says why.", code="internal")
