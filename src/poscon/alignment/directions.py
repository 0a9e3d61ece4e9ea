"""Which volumes run the other way: every pair votes, and the votes are brought together."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import eigsh

from poscon.alignment.pairs import Pairs


def find_directions(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Find the volumes whose slices run against those of the majority.

    A pair is fitted as it is and with one of the two turned round. Its vote v is the difference of
    the two largest amounts of evidence, over their sum, from -1 to 1. The signs s of all volumes
    that agree best with the votes are those of the leading eigenvector of the matrix of votes
    (spectral synchronisation, Singer, Applied and Computational Harmonic Analysis 2011). They are
    then changed one by one as long as that raises the sum of s_i v_ij s_j.

    Args:
        pairs: the evidence of all pairs.

    Returns:
        (V,) +1 for the majority and -1 for the others, and (V,) how clear it is: the sum of the
        votes of all partners for it, over the sum of their sizes; from 0 (undecided) to 1.
    """
    n = len(pairs.lengths)
    i, j, votes = [], [], []
    for pair, behind in sorted(pairs.turned.items()):
        ahead = pairs.evidence[pair].max()
        against = behind.max()
        total = abs(ahead) + abs(against)
        i.append(pair[0])
        j.append(pair[1])
        votes.append((ahead - against) / total if total > 0 else 0.0)
    matrix = coo_array((votes, (i, j)), shape=(n, n)).tocsr()
    matrix = (matrix + matrix.T).tocsr()
    if n < 3 or not matrix.nnz:
        signs = np.ones(n)
        if votes and votes[0] < 0:  # two volumes, of two subjects
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
    if signs.sum() < 0:
        signs = -signs
    sizes = abs(matrix).sum(axis=1)
    clearness = signs * (matrix @ signs) / np.where(sizes > 0, sizes, 1)
    return signs, clearness
