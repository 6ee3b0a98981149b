import json
import sys

import pytest
import torch
from datasets import Dataset

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import ClassificationTask, evaluate_classification
from llm2vec_pl.evaluation.classification import draws

TRAIN = [{"text": letter * i, "label": letter} for i in range(1, 13) for letter in "abc"]
TEST = [{"text": letter * i, "label": letter} for i in range(20, 25) for letter in "abc"]


class Letters:
    """Embeds a text by the share of each letter, and remembers the texts."""

    def __init__(self):
        self.texts = []

    def encode(self, texts, instruction, batch_size):
        self.texts += texts
        counts = [[(instruction + text).count(letter) for letter in "abc"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts, dtype=torch.float32))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, TRAIN)))
    lines = [f"{row['label']},{row['text']}" for row in TEST]
    (folder / "test.csv").write_text("\n".join(["label,text", *lines]))
    return folder


def test_a_folder_has_a_file_for_each_split(folder):
    task = ClassificationTask.read(str(folder))
    assert task.name == "letters"
    assert task.train_texts == [row["text"] for row in TRAIN]
    assert task.train_labels == [row["label"] for row in TRAIN]
    assert task.test_texts == [row["text"] for row in TEST]
    assert task.test_labels == [row["label"] for row in TEST]


def test_labels_that_can_be_told_apart_are_all_found(folder):
    encoder = Letters()
    assert evaluate_classification(encoder, ClassificationTask.read(folder)) == 1.0
    assert len(encoder.texts) == len(set(encoder.texts))  # each once


def test_the_accuracy_counts_texts_whose_label_was_never_seen_as_wrong(folder):
    task = ClassificationTask.read(folder)
    labels = ["z" if label == "c" else label for label in task.test_labels]
    other = ClassificationTask("t", task.train_texts, task.train_labels, task.test_texts, labels)
    assert evaluate_classification(Letters(), other) == pytest.approx(2 / 3)


def test_the_accuracy_is_the_mean_of_scikit_learns_own(folder):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score

    texts = [f"{'a' * (i % 5)}{'b' * (i % 7)}{'c' * (i % 3)}x" for i in range(120)]
    labels = [str((i * i + i // 3) % 4) for i in range(120)]
    task = ClassificationTask("t", texts[:80], labels[:80], texts[80:], labels[80:])
    encode = lambda texts: Letters().encode(texts, "", 8).numpy()  # noqa: E731
    scores = []
    for rows in draws(task.train_labels, samples_per_label=4, experiments=3):
        model = LogisticRegression(max_iter=100)
        model.fit(encode([texts[i] for i in rows]), [labels[i] for i in rows])
        scores.append(accuracy_score(task.test_labels, model.predict(encode(task.test_texts))))
    found = evaluate_classification(Letters(), task, samples_per_label=4, experiments=3)
    assert found == pytest.approx(sum(scores) / 3)
    assert 0 < found < 1


def test_the_rows_are_those_that_mteb_draws():
    """What `AbsTaskClassification._undersample_data` of mteb 2.26 returns for these labels."""
    labels = list("abcabcabcabcaabb")
    assert draws(labels, samples_per_label=2, experiments=3) == [
        [0, 1, 5, 14, 13, 11],
        [0, 1, 11, 3, 7, 2],
        [0, 1, 7, 9, 5, 11],
    ]


def test_a_label_with_few_examples_gives_all_that_it_has():
    first, second = draws(["a"] * 20 + ["b"] * 2, samples_per_label=5, experiments=2)
    assert [sum(i < 20 for i in rows) for rows in (first, second)] == [5, 5]
    assert all({20, 21} <= set(rows) for rows in (first, second))
    assert set(first) != set(second)


def test_an_instruction_stands_before_each_text(folder):
    instructed = []

    class Instructed(Letters):
        def encode(self, texts, instruction, batch_size):
            instructed.append((instruction, batch_size))
            return super().encode(texts, "", batch_size)

    task = ClassificationTask.read(folder)
    evaluate_classification(Instructed(), task, batch_size=7, instruction="Sort: ")
    assert instructed == [("Sort: ", 7)]


def test_a_diverged_encoder_has_no_accuracy(folder):
    class Diverged(Letters):
        def encode(self, texts, *_):
            return torch.full((len(texts), 3), torch.nan)

    value = evaluate_classification(Diverged(), ClassificationTask.read(folder))
    assert torch.tensor(value).isnan()


def test_a_limit_is_for_the_texts_to_classify(folder):
    task = ClassificationTask.read(folder)
    part = task.limited(5)
    assert part.test_texts == task.test_texts[::3]
    assert part.test_labels == task.test_labels[::3]
    assert part.train_texts == task.train_texts
    assert task.limited(None) == task


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": " ", "label": "a"}', "line 37: expected a text in 'text', but got empty"),
        ('{"text": "x", "label": ""}', "line 37: .*whole number in 'label', but got ''"),
        ('{"text": "x", "label": 0.5}', "line 37: .*whole number in 'label', but got 0.5"),
        ('{"text": "x"}', "line 37: .*'label', but got None"),
        ('{"text": "x", ', "line 37: expected a text with a label, but got broken JSON"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(line, message, folder):
    file = folder / "train.jsonl"
    file.write_text(file.read_text() + "\n" + line)
    with pytest.raises(UserError, match=f"train.jsonl {message}"):
        ClassificationTask.read(folder)


def test_a_folder_that_lacks_a_split_or_has_it_twice_is_an_error(folder):
    with pytest.raises(UserError, match=r"one file dev .*found 0 \(files there: test.csv, train"):
        ClassificationTask.read(folder, split="dev")
    (folder / "train.csv").write_text("text,label")
    with pytest.raises(UserError, match=r"found 2 \(files there: train.csv, train.jsonl\)"):
        ClassificationTask.read(folder)
    with pytest.raises(UserError, match=r"is a file .*folder with a file for each split"):
        ClassificationTask.read(folder / "train.jsonl")
    with pytest.raises(UserError, match="does not exist"):
        ClassificationTask.read("./nowhere")


def test_one_label_is_nothing_to_learn(folder):
    with pytest.raises(UserError, match="at least two labels.*1 labels"):
        ClassificationTask("t", ["a", "b"], ["x", "x"], ["c"], ["x"])
    (folder / "test.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="letters.* 0 texts to classify"):
        ClassificationTask.read(folder)


def test_a_data_set_of_the_hub_has_whole_numbers_as_labels(monkeypatch):
    def fake(path, subset, split):
        assert (path, subset) == ("mteb/banking77", None)
        rows = TRAIN if split == "train" else TEST
        return Dataset.from_list([{**row, "label": ord(row["label"])} for row in rows])

    monkeypatch.setattr("datasets.load_dataset", fake)
    task = ClassificationTask.read("mteb/banking77")
    assert (task.name, task.train_labels[:3]) == ("banking77", ["97", "98", "99"])
    assert evaluate_classification(Letters(), task) == 1.0


def test_without_scikit_learn_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UserError, match=r"pip install \"llm2vec_pl\[classification\]\""):
        ClassificationTask.read(folder)


def test_numbers_of_experiments_begin_at_one(folder):
    with pytest.raises(ValueError, match="at least 1, but got 8 and 0"):
        evaluate_classification(Letters(), ClassificationTask.read(folder), experiments=0)


@pytest.mark.slow
def test_the_embedded_decoder_on_real_intents(shared_data):
    task = ClassificationTask.read(shared_data / "classification" / "snips").limited(70)
    assert len(set(task.train_labels)) == 7
    value = evaluate_classification(Encoder("tiny", lora_rank=0), task, experiments=2)
    assert 0.5 < value < 1.0
