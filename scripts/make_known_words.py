#!/usr/bin/env python
"""Writes the filter of known English words that the rules of `ee_trl.scoring.flags` look up.

The words are those that occur at least twice in the training split of EmpatheticDialogues (`ed_train.parquet` in the
folder `--data`, by default $EE_TRL_DATA), without those of other languages that occur there.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from ee_trl.files import write_text
from ee_trl.scoring.features import tokenise
from ee_trl.scoring.flags import BITS, KNOWN_WORDS, bits_of


# words of two letters that are English; the data hold many initials and slips of that length
SHORT = """
ah am an as at aw be bf by do dr eh ex gf go ha he hi hm if in is it jk me mr ms my no of oh ok on or pc so to tv uh um
up ur us we ya yo
"""
OTHER_LANGUAGES = """
acha ako aku ang anche arigato aus avec bahut ben bene bien bir bis casa che con cok dan das dat del der des desu det
dit dos dou een ein est este et evet felicidades gracias haar hai hain han hao hatte heb het hola hoy hum ich ikaw ini
jag jayega jest jeg kamu kar kya las les lindo lo los maar mais mas mau meine mera mga mit molto moj mon muito muy nada
nahi nahin naman nao nee nein nicht niet noch non nous para par pas per pero por pour que qui sagt sana saya sehr sen
ses sie sin sind sono sur tak tanto tere theek todo toi ton tout tum tumhara tus una und uno vai van vie voor vous wat
wie wir yaar yang yeh zijn zum zur
"""

README = """---
license: cc-by-nc-4.0
language: en
---

# Known English words

`known_words.bin` is a Bloom filter (2^{bits} bits, three for each word) of {words:,} words. Scorers that read English
only look words up in it, to flag replies in other languages. Written by `scripts/make_known_words.py`.

The words occur at least twice in the training split of EmpatheticDialogues (Rashkin et al. 2019, CC BY-NC 4.0). The
file holds no text of the data. As it is learnt from CC BY-NC 4.0 data, its use is **non-commercial only**, like that
of the weights of the scorer "linear".
"""


def known_words(path: Path) -> list[str]:
    """The words, sorted."""
    table = pq.read_table(path, columns=["context", "response"])
    texts = {
        *table.column("response").to_pylist(),
        *(t for turns in table.column("context").to_pylist() for t in turns),
    }
    counts = Counter(token for text in texts for token in tokenise(text))
    out, short = {*OTHER_LANGUAGES.split()}, {*SHORT.split()}
    return sorted(
        word
        for word, n in counts.items()
        if n >= 2 and word.isascii() and word.isalpha() and word not in out and (len(word) > 2 or word in short)
    )


def main() -> None:
    """Reads the data, writes the filter and its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EE_TRL_DATA"), help="folder with ed_train.parquet")
    args = parser.parse_args()
    if not args.data:
        parser.error("give the folder of the data: --data FOLDER, or $EE_TRL_DATA")
    words = known_words(Path(args.data) / "ed_train.parquet")
    found = bytearray(1 << (BITS - 3))
    for word in words:
        for bit in bits_of(word):
            found[bit >> 3] |= 1 << (bit & 7)
    KNOWN_WORDS.parent.mkdir(parents=True, exist_ok=True)
    KNOWN_WORDS.write_bytes(found)
    write_text(KNOWN_WORDS.with_name("README.md"), README.format(bits=BITS, words=len(words)))
    print(f"{len(words):,} words, {sum(byte.bit_count() for byte in found) / (8 * len(found)):.1%} of the bits set")


if __name__ == "__main__":
    main()
