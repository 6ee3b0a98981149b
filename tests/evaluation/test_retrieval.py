import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.retrieval_task import RetrievalTask
from llm2vec_pl.encoder import MultiVectorEncoder, new_projection
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import retrieval
from llm2vec_pl.evaluation.ranking import ranking_metrics
from llm2vec_pl.evaluation.retrieval import evaluate_retrieval, search

METRICS = ["ndcg@10", "recall@1", "recall@10", "recall@100", "mrr@10"]


class Lengths(torch.nn.Linear):
    """Embeds a text by its length, so that texts of one length find each other."""

    def __init__(self):
        super().__init__(1, 1)
        self.largest_call = 0

    def encode(self, texts, instruction, batch_size):
        self.largest_call = max(self.largest_call, len(texts))
        lengths = torch.tensor([len(instruction + text) for text in texts])
        return torch.nn.functional.one_hot(lengths, 20).float()


def task(relevant=None, **changes):
    arguments = {
        "queries": {"q1": "aa", "q2": "bbbb"},
        "corpus": {"d1": "cc", "d2": "dddd", "d3": "e"},
        "relevant": relevant or {"q1": {"d1": 1}, "q2": {"d2": 1}},
    }
    return RetrievalTask("lengths", **{**arguments, **changes})


def test_a_task_is_solved_where_queries_are_nearest_to_their_documents():
    assert evaluate_retrieval(Lengths(), task()) == dict.fromkeys(METRICS, 1.0)
    wrong = task({"q1": {"d1": 1}, "q2": {"d3": 1}})
    found = evaluate_retrieval(Lengths(), wrong)
    assert (found["recall@1"], found["recall@10"]) == (0.5, 1.0)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)  # d1, then d3: ties by place


def test_the_corpus_is_searched_in_chunks(monkeypatch):
    monkeypatch.setattr(retrieval, "_DOCUMENTS_AT_ONCE", 2)
    encoder = Lengths()
    assert evaluate_retrieval(encoder, task()) == dict.fromkeys(METRICS, 1.0)
    assert encoder.largest_call == 2


def test_maxsim_ranks_what_has_a_vector_for_each_token(llama_folder, monkeypatch):
    """Texts of unequal lengths, in chunks: as if each query met each document alone."""
    monkeypatch.setattr(retrieval, "_WITH_TOKENS_AT_ONCE", 2)
    encoder = Encoder(llama_folder, lora_rank=0).load()
    torch.manual_seed(0)
    model = MultiVectorEncoder(encoder, new_projection(encoder.embedding_size, 8))
    queries = {"q1": "a cat", "q2": "how to open a file and to read it"}
    corpus = {"d1": "It purrs.", "d2": "Open the file and return what it holds.", "d3": "a cat"}
    found = evaluate_retrieval(
        model, RetrievalTask("tokens", queries, corpus, {"q1": {"d1": 1}, "q2": {"d2": 1}})
    )
    rankings = []
    for query in model.encode(list(queries.values()), batch_size=1):
        score = lambda d: (query @ d.T).amax(dim=1).mean().item()  # noqa: B023, E731
        scores = map(score, model.encode(list(corpus.values()), batch_size=1))
        ranked = sorted(zip(scores, corpus, strict=True), reverse=True)
        rankings.append([name for _, name in ranked])
    assert found == ranking_metrics(rankings, [{"d1": 1}, {"d2": 1}])
    assert found["mrr@10"] < 1  # "a cat" finds itself first


def test_queries_and_documents_have_instructions_of_their_own():
    longer = {"queries": {"q1": "a", "q2": "bbb"}}
    assert evaluate_retrieval(Lengths(), task(**longer))["recall@1"] < 1
    assert evaluate_retrieval(Lengths(), task(**longer), query_instruction=":")["recall@1"] == 1
    shorter = {"corpus": {"d1": "c", "d2": "ddd", "d3": ""}}
    assert evaluate_retrieval(Lengths(), task(**shorter), document_instruction=":")["recall@1"] == 1


def test_a_diverged_encoder_scores_nothing_rather_than_something():
    encoder = Lengths()
    encoder.encode = lambda texts, *_: torch.full((len(texts), 2), torch.nan)
    assert all(math.isnan(value) for value in evaluate_retrieval(encoder, task()).values())


def test_a_limit_keeps_the_documents_that_answer():
    size = 20
    whole = task(
        queries={f"q{i}": "a" * i for i in range(size)},
        corpus={f"d{i}": "b" * i for i in range(size)},
        relevant={f"q{i}": {f"d{i}": 1, "gone": 1} for i in range(size)},
    )
    some = whole.limited(4, 10)
    assert list(some.queries) == ["q0", "q5", "q10", "q15"]
    assert some.relevant.keys() == some.queries.keys()
    assert len(some.corpus) == 10
    assert {"d0", "d5", "d10", "d15"} < some.corpus.keys()
    assert list(some.corpus) == [name for name in whole.corpus if name in some.corpus]
    assert whole.limited(4).corpus == whole.corpus
    assert len(whole.limited(4, 1).corpus) == 4
    assert whole.limited(None, None) == whole


def test_a_task_without_queries_is_a_clear_error():
    with pytest.raises(UserError, match="lengths has 0 queries and 3 documents"):
        task(queries={})


@pytest.mark.slow
def test_the_embedded_decoder_on_real_questions(shared_data):
    real = RetrievalTask.from_folder(shared_data / "retrieval" / "xquad_en")
    assert (len(real.queries), len(real.corpus), real.notes) == (1190, 240, ())
    found = evaluate_retrieval(Encoder("tiny", lora_rank=0), real.limited(60, 120))
    assert 0.2 < found["ndcg@10"] < 0.9
    assert found["recall@1"] < found["recall@10"] < found["recall@100"]


def test_a_query_that_is_a_document_does_not_find_itself():
    """As in ArguAna: each argument is a query and a document, and looks for its counterargument."""
    texts = {f"a{i}": "x" * (i // 2) for i in range(8)}  # two of each length
    counter = {f"a{i}": {f"a{i ^ 1}": 1} for i in range(8)}
    arguana = task(queries=texts, corpus=texts, relevant=counter)
    assert evaluate_retrieval(Lengths(), arguana) == dict.fromkeys(METRICS, 1.0)


def test_a_document_with_a_querys_id_that_answers_it_is_found():
    """A list of pairs with an id each, as the held-out documentation is."""
    pairs = task(
        queries={"1": "aa", "2": "bbbb"},
        corpus={"1": "cc", "2": "dddd"},
        relevant={"1": {"1": 1}, "2": {"2": 1}},
    )
    assert evaluate_retrieval(Lengths(), pairs) == dict.fromkeys(METRICS, 1.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 130), st.integers(1, 5), st.integers(0, 2**31))
def test_rankings_are_those_of_sorting_all_other_documents(queries, documents, gap, seed):
    draw = torch.Generator().manual_seed(seed)
    query_vectors = torch.randn(queries, 8, generator=draw)
    vectors = torch.randn(documents, 8, generator=draw)
    names = [str(gap * i) for i in range(documents)]  # some of the queries' ids are among them
    own = dict(zip(map(str, range(queries)), torch.randint(documents, (queries,)), strict=True))
    relevant = {query: {names[int(place)]: 1, "gone": 1} for query, place in own.items()}
    of_ids = task(relevant, queries=dict.fromkeys(relevant, "q"), corpus=dict.fromkeys(names, "d"))
    scores = (F.normalize(query_vectors) @ F.normalize(vectors).T).tolist()
    rankings = []
    for row, query in zip(scores, relevant, strict=True):
        order = sorted(range(documents), key=lambda i: -row[i])
        rankings.append(
            [names[i] for i in order if names[i] != query or relevant[query].get(query)]
        )
    expected = ranking_metrics(rankings, list(relevant.values()))
    assert search(of_ids, query_vectors, vectors.split(50)) == pytest.approx(expected)
