"""Embeds a corpus on a Ray cluster: tasks read it, actors hold the encoder and write the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.documents import Documents
from llm2vec_pl.use.bulk.embedding import Embedding
from llm2vec_pl.use.bulk.parts import PartFolder
from llm2vec_pl.use.bulk.progress import Progress
from llm2vec_pl.use.bulk.ray_workers import END, Writer, read
from llm2vec_pl.use.bulk.run import Embedded, begun, result
from llm2vec_pl.use.bulk.settings import settings_of


def embed_corpus_on_ray(
    open_encoder: Callable[[], Encoder],
    documents: Documents,
    out: str | Path,
    how: Embedding | None = None,
    devices: str | int = "auto",
    report: Callable[[str], object] = print,
) -> Embedded:
    """What `embed_corpus` does, on the Ray cluster that `RAY_ADDRESS` names, or on this machine.

    Ray Data starts between one actor and as many as `devices`, as the work demands, and gives the
    files of one that dies to another. A file that is there is not written again.

    Args:
        open_encoder: opens the encoder, here and in each actor.
        documents: the corpus; all machines see it.
        out: a folder to which all machines write.
        how: what becomes of the embeddings.
        devices: the most actors, each with a GPU, or with a CPU if there is no GPU; "auto" takes
            all.
        report: called with lines to print.

    Raises:
        UserError: as `embed_corpus`, and if Ray is not installed or has no such devices.
    """
    ray = _ray()
    encoder = open_encoder()
    how = (how or Embedding()).by(encoder)
    settings = settings_of(encoder, how, documents)
    folder = PartFolder(Path(out).expanduser().absolute(), settings)
    del encoder  # its memory is the actors'
    with begun(folder, documents, report):
        was_running = ray.is_initialized()
        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
        try:
            workers, gpus = _workers(ray.cluster_resources(), devices)
            done = folder.whole()
            progress = Progress(sum(done.values()), documents.corpus.count)
            rows = _embedded(open_encoder, documents, folder, how, workers, gpus)
            for number, count in rows:
                if number == END:
                    documents.rows = count
                else:
                    progress.advance(count)
            progress.close()
            return result(folder, documents, progress.rate)
        finally:
            if not was_running:
                ray.shutdown()


def _embedded(
    open_encoder: Callable[[], Encoder],
    documents: Documents,
    folder: PartFolder,
    how: Embedding,
    workers: int,
    gpus: int,
) -> Iterator[tuple[int, int]]:
    """(number, rows) of each chunk when its file is there, and (END, all rows) of each reader."""
    import ray

    # A block for each chunk: chunks that share one would go to the same actor.
    context = ray.data.DataContext.get_current()
    usual, context.target_max_block_size = context.target_max_block_size, 1
    try:
        readers = ray.data.from_items(list(range(workers)), override_num_blocks=workers)
        there = folder.whole()
        chunks = readers.map_batches(
            read,
            batch_size=1,
            num_cpus=0,  # it waits for the actors most of the time
            fn_kwargs={"documents": documents, "there": set(there), "readers": workers},
        )
        written = chunks.map_batches(
            Writer,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=1,
            num_gpus=gpus or None,
            fn_constructor_args=(open_encoder, folder, how, documents.columns.keep),
        )
        for row in written.iter_rows():
            yield int(row["number"]), int(row["rows"])
    except Exception as error:
        raise (_users(error) or error) from error
    finally:
        context.target_max_block_size = usual


def _workers(resources: dict[str, float], devices: str | int) -> tuple[int, int]:
    """The most actors, and how many GPUs each has."""
    gpus = int(resources.get("GPU", 0))
    there = gpus or max(1, int(resources.get("CPU", 1)))
    kind = "GPUs" if gpus else "CPUs"
    wanted = there if devices == "auto" else int(devices)
    if not 1 <= wanted <= there:
        raise UserError(
            f"`devices` is from 1 to {there}, the {kind} of the Ray cluster, but got {devices}."
        )
    return wanted, int(gpus > 0)


def _users(error: BaseException | None) -> UserError | None:
    """The `UserError` that an actor or a task has raised, which Ray wraps."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if type(error) is UserError:
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError('`engine="ray"` needs Ray Data: pip install "llm2vec_pl[ray]".') from error
    return ray
