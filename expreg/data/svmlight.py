"""Read svmlight files (.svm): one row per line, a label and the entries that are not 0."""

import warnings
from array import array
from itertools import pairwise
from typing import IO

import numpy as np

from expreg.data.arrays import Arrays, Options, refusal
from expreg.data.market import MAX_COLUMNS, bounded
from expreg.data.text import each, lines, number, quoted


def read_svmlight(source: IO[bytes], _: Options) -> Arrays:
    """Return the matrix, a scipy.sparse.csr_array, and the labels of a svmlight file.

    Indices of a row may come in any order. They count from 0 if one of them is 0, else from 1: a warning says which.
    """
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    labels, values, columns, ends = array("d"), array("d"), array("q"), array("q", [0])

    def take(_: int, words: list[str]) -> None:
        label, pairs = number(words[0]), sorted(_pair(word) for word in words[1:] if not word.startswith("qid:"))
        indices = [index for index, _ in pairs]
        for index, following in pairwise(indices):
            if index == following:
                raise refusal("E-SPARSE", f"index {index} stands there twice")
        labels.append(label)
        columns.extend(indices)
        values.extend([value for _, value in pairs])
        ends.append(len(columns))

    rows = ((line, text.partition("#")[0].split()) for line, text in lines(source))
    each(((line, words) for line, words in rows if words), take)
    index = np.frombuffer(columns, dtype=np.int64) if columns else np.zeros(0, np.int64)
    base = int(index.min(initial=1) > 0)
    shape = (len(labels), int(index.max(initial=base - 1)) + 1 - base)
    bounded(shape)
    why = "none of the indices is 0" if base else "an index is 0"
    warnings.warn(f"svmlight: {why}, so they count from {base}: x[0] is feature {base}", stacklevel=2)
    return sparse.csr_array((np.array(values), index - base, np.array(ends)), shape=shape), np.array(labels)


def _pair(word: str) -> tuple[int, float]:
    index, _, value = word.partition(":")
    if not (value and index.isascii() and index.isdigit()):
        raise refusal("E-DATA", f"got {quoted(word)}, expected index:value")
    if len(index) > 9 or int(index) > MAX_COLUMNS:
        raise refusal("E-SIZE", f"got index {index[:20]}, expected d <= 2^24")
    return int(index), number(value)
