"""Which volumes run the other way: every pair votes, and the votes are brought together."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import eigsh

from poscon.alignment.pairs import Pairs


def find_directions(pairs: Pairs, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Find the volumes whose slices run against those of the majority.

    A pair is fitted as it is and with one of the two turned round. Its vote v is the difference of
    the two largest amounts of evidence, over their sum, from -1 to 1. The signs s of all volumes
    that agree best with the votes are those of the leading eigenvector of the matrix of votes
    (spectral synchronisation, Singer, Applied and Computational Harmonic Analysis 2011). They are
    then changed one by one as long as that raises the sum of s_i v_ij s_j.

    The frames of one file run the same way. They have one sign, and their votes are summed.

    Args:
        pairs: the evidence of all pairs.
        files: (V,) the file of each volume.

    Returns:
        (V,) +1 for the majority and -1 for the others, and (V,) how clear it is: the sum of the
        votes of all partners for its file, over the sum of their sizes; from 0 (undecided) to 1.
    """
    names, file_of = np.unique(np.asarray(files, str), return_inverse=True)
    n = len(names)
    i, j, votes = [], [], []
    for pair, behind in sorted(pairs.turned.items()):
        ahead = pairs.evidence[pair].max()
        against = behind.max()
        total = abs(ahead) + abs(against)
        i.append(file_of[pair[0]])
        j.append(file_of[pair[1]])
        votes.append((ahead - against) / total if total > 0 else 0.0)
    signs, clearness = synchronise(np.array(i, np.int64), np.array(j, np.int64), np.array(votes), n)
    if signs[file_of].sum() < 0:
        signs = -signs
    return signs[file_of], clearness[file_of]


def synchronise(
    one: np.ndarray, other: np.ndarray, votes: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The signs that agree best with votes of pairs, see :func:`find_directions`.

    Args:
        one: (P,) the first of each pair, from 0 to n - 1. A pair may vote several times.
        other: (P,) the second.
        votes: (P,) above 0: both have the same sign.
        n: how many there are.

    Returns:
        (n,) signs, +1 or -1; with all turned round they agree as well. (n,) how clear each is.
    """
    matrix = _symmetric(one, other, votes, n)
    if n < 3 or not matrix.nnz:
        signs = np.ones(n)
        if n == 2 and matrix.sum() < 0:  # two files, of two subjects
            signs[1] = -1
    else:
        start = np.ones(n) / np.sqrt(n)  # else ARPACK starts at random
        _, vectors = eigsh(matrix, k=1, which="LA", v0=start + 1e-3 * np.arange(n) / n)
        signs = np.where(vectors[:, 0] < 0, -1.0, 1.0)
    for _ in range(n):
        turned = signs * (matrix @ signs)
        worst = int(turned.argmin())
        if turned[worst] >= 0:
            break
        signs[worst] = -signs[worst]
    sizes = _symmetric(one, other, np.abs(votes), n).sum(axis=1)
    return signs, signs * (matrix @ signs) / np.where(sizes > 0, sizes, 1)


def _symmetric(one: np.ndarray, other: np.ndarray, values: np.ndarray, n: int) -> csr_array:
    """(n, n) the sums of the values of pairs, both ways, without those of a row with itself."""
    apart = one != other
    matrix = coo_array((values[apart], (one[apart], other[apart])), shape=(n, n)).tocsr()
    return csr_array(matrix + matrix.T)
