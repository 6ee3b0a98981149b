"""Files of word-level tasks as they are published, with a few sentences of our own."""

from __future__ import annotations

import random
from pathlib import Path

CONLL2003_IOB1 = """\
-DOCSTART- -X- O O

Marta NNP I-NP I-PER
Lindqvist NNP I-NP I-PER
Olsen NNP I-NP B-PER
flew VBD I-VP O
to TO I-PP O
Oslo NNP I-NP I-LOC
. . O O

-DOCSTART- -X- O O

The DT I-NP O
Norwegian JJ I-NP I-MISC
bank NN I-NP O
DNB NNP I-NP I-ORG
agreed VBD I-VP O
. . O O

"""
"""The original eng.train: IOB1, so that Olsen is a second person."""

CONLL2003_IOB2 = """\
-DOCSTART- -X- -X- O

Marta NNP B-NP B-PER
Lindqvist NNP I-NP I-PER
Olsen NNP I-NP B-PER
flew VBD B-VP O
to TO B-PP O
Oslo NNP B-NP B-LOC
. . O O

-DOCSTART- -X- -X- O

The DT B-NP O
Norwegian JJ I-NP B-MISC
bank NN I-NP O
DNB NNP I-NP B-ORG
agreed VBD B-VP O
. . O O

"""
"""As most copies of it are today."""

CONLL2000 = """\
Shares NNS B-NP
rose VBD B-VP
# # B-NP
3 CD I-NP
million CD I-NP
in IN B-PP
London NNP B-NP
. . O

# # B-NP
2 CD I-NP
was VBD B-VP
paid VBN I-VP
. . O

"""
"""train.txt of the shared task, with the pound sign that WSJ has, at the start of a sentence too."""

CONLLU = """\
# newdoc id = letters-1
# sent_id = letters-1-1
# text = We don't know.
1	We	we	PRON	PRP	Case=Nom	4	nsubj	4:nsubj	_
2-3	don't	_	_	_	_	_	_	_	_
2	do	do	AUX	VBP	_	4	aux	4:aux	_
3	n't	not	PART	RB	_	4	advmod	4:advmod	_
4	know	know	VERB	VB	_	0	root	0:root	SpaceAfter=No
5	.	.	PUNCT	.	_	4	punct	4:punct	_

# sent_id = letters-1-2
# text = # one and two
1	#	#	SYM	NN	_	0	root	0:root	_
2	10 000	10000	NUM	CD	_	1	nummod	1:nummod	_
2.1	and	and	CCONJ	CC	_	_	_	1:cc	_

"""

NAMES = ["Oslo", "Bergen", "Lima", "Quito", "Nairobi"]


def write_conll2003(folder: Path, sentences: int = 60, iob1: bool = True) -> Path:
    """A folder with eng.train, eng.testa and eng.testb, of a task that a small model can learn."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(
        {"eng.train": sentences, "eng.testa": sentences // 3, "eng.testb": sentences // 3}.items()
    ):
        drawn = random.Random(seed)
        text = "-DOCSTART- -X- O O\n\n"
        for _ in range(count):
            begin = "I" if iob1 else "B"
            text += f"The DT {begin}-NP O\ntrain NN I-NP O\nfrom IN {begin}-PP O\n"
            text += f"{drawn.choice(NAMES)} NNP {begin}-NP {begin}-LOC\n"
            text += f"left VBD {begin}-VP O\n. . O O\n\n"
        (folder / name).write_text(text)
    return folder


def write_conll2000(folder: Path, sentences: int = 60) -> Path:
    """A folder with train.txt and test.txt, as the shared task had them: no validation split."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train.txt": sentences, "test.txt": 20}.items()):
        drawn = random.Random(seed)
        text = ""
        for number in range(count):
            text += f"Mr. NNP B-NP\n{drawn.choice(NAMES)} NNP I-NP\npaid VBD B-VP\n"
            text += f"# # B-NP\n{number} CD I-NP\nin IN B-PP\nMay NNP B-NP\n. . O\n\n"
        (folder / name).write_text(text)
    return folder
