"""Looking into trained networks; every function returns data or a new network and leaves the given one as it is."""

from .sharing import (
    RecurrentRun,
    Similarity,
    cluster_layers,
    coefficient_spectrum,
    compress_banks,
    fold_layers,
    layer_clusters,
    layer_similarity,
    recurrent_runs,
)

__all__ = [
    "RecurrentRun",
    "Similarity",
    "cluster_layers",
    "coefficient_spectrum",
    "compress_banks",
    "fold_layers",
    "layer_clusters",
    "layer_similarity",
    "recurrent_runs",
]
