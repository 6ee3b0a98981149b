import json

import pytest

WORDS = {
    "NOUN": ["lake", "river", "house", "dog", "letter"],
    "VERB": ["sees", "finds", "paints", "likes"],
    "ADJ": ["green", "old", "quiet"],
}


def sentences(count: int, start: int = 0) -> list[dict]:
    rows = []
    for i in range(start, start + count):
        noun, verb, adjective = (words[i % len(words)] for words in WORDS.values())
        other = WORDS["NOUN"][(i * 7 + 3) % 5]
        rows.append(
            {
                "tokens": ["The", adjective, noun, verb, "the", other, "."],
                "upos": ["DET", "ADJ", "NOUN", "VERB", "DET", "NOUN", "PUNCT"],
            }
        )
    return rows


@pytest.fixture(scope="session")
def sentences_folder(tmp_path_factory):
    """Short sentences whose words tell their part of speech."""
    folder = tmp_path_factory.mktemp("words") / "lakes"
    folder.mkdir()
    for split, rows in (
        ("train", sentences(60)),
        ("dev", sentences(10, 60)),
        ("test", sentences(12, 70)),
    ):
        lines = "\n".join(map(json.dumps, rows))
        (folder / f"{split}.jsonl").write_text(lines + "\n")
    return folder
