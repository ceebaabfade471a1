"""From features to points in the plane, by t-SNE (openTSNE), UMAP (umap-learn) or PCA (scikit-learn)."""

from importlib import import_module
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from resnet_jax.analysis.logistic import check_finite
from resnet_jax.display import bytes_of
from resnet_jax.errors import ConfigError, DataError

Method = Literal["tsne", "umap", "pca"]

PERPLEXITY = 30.0
UMAP_NEIGHBOURS, UMAP_DISTANCE = 15, 0.1
EXAGGERATION, EXAGGERATED = 12, 250  # of t-SNE, and for how many iterations
APPROXIMATE_BELOW = 1000
"""Features for which t-SNE may look for neighbours by an index; with more, comparing all is faster."""
WIDE, KEPT = 4096, 50
"""Features above which their first principal components stand for them, and how many of these are taken."""
MOST: dict[Method, int] = {"tsne": 20_000, "umap": 50_000, "pca": 200_000}
"""Images on a map. Points of more would hide each other, and t-SNE compares all of them where features are many."""
WIDE_BYTES = 2**32
"""Of wide features, which PCA takes into memory several times."""


def check_count(count: int, method: Method, perplexity: float = PERPLEXITY) -> None:
    """Raises where a method needs more images, or cannot take as many.

    Raises:
      ConfigError: a perplexity that is not positive.
      DataError: too few images or too many.
    """
    if not perplexity >= 1:
        raise ConfigError(f"perplexity = {perplexity:g} must be at least 1; 30 is usual")
    tsne = method == "tsne"
    fewest = {"tsne": int(np.ceil(3 * perplexity)) + 1, "umap": UMAP_NEIGHBOURS + 1, "pca": 3}[method]
    if count < fewest:
        why = f"perplexity {perplexity:g}" if tsne else f"{UMAP_NEIGHBOURS} neighbours"
        smaller = (count - 1) // 3
        remedy = f"take perplexity {smaller} or less" if tsne and smaller else "bring more images"
        raise DataError(
            f"{method}{f' with {why}' * (method != 'pca')} needs at least {fewest} images, and there are {count}; "
            f"{remedy}{', or map them by pca' * (method != 'pca' and count > 2)}"
        )
    if count > MOST[method]:
        raise DataError(
            f"{count:,} images are too many for a map by {method}, which takes at most {MOST[method]:,} here; "
            f"--images {min(5000, MOST[method])} takes a sample"
        )


def reduced(features: Float[np.ndarray, "N ..."], seed: int = 0) -> Float[np.ndarray, "N D"]:
    """The features as they are mapped and measured: as they are, or of wide ones the first principal components.

    Raises:
      DataError: features that are not finite, or too many of them for the memory.
    """
    count = len(features)
    width = int(np.prod(features.shape[1:]))
    if width <= WIDE:
        flat = np.asarray(features, np.float32).reshape(count, width)
        check_finite(flat, "the features")
        return flat
    if 4 * count * width > WIDE_BYTES:
        raise DataError(
            f"{count:,} images of {width:,} features take {bytes_of(4.0 * count * width)}, and PCA would need them in "
            f"memory several times; --images {max(1, WIDE_BYTES // (4 * width))} takes a sample, or map means over "
            "space (without --whole-maps)"
        )
    from sklearn.decomposition import PCA

    flat = np.asarray(features, np.float32).reshape(count, width)
    check_finite(flat, "the features")
    pca = PCA(min(KEPT, count), svd_solver="randomized", random_state=seed)
    return np.asarray(pca.fit_transform(flat), np.float32)


def embed(
    features: Float[np.ndarray, "N D"], method: Method = "tsne", *, perplexity: float = PERPLEXITY, seed: int = 0
) -> Float[np.ndarray, "N 2"]:
    """A point in the plane for each row. The same seed gives the same bits on the same machine.

    t-SNE has the settings of Kobak and Berens 2019 (doi:10.1038/s41467-019-13056-x): it starts from the first principal
    components, scaled to a standard deviation of 1e-4, and exaggerates by 12 for 250 iterations. The learning rate is
    N / 12 and at least 200. UMAP has 15 neighbours and a smallest distance of 0.1.

    Raises:
      ConfigError: the library of the method is not installed, or a perplexity that is not positive.
      DataError: too few images or too many, or features that are the same for all.
    """
    check_count(len(features), method, perplexity)
    if not np.ptp(features, axis=0).any():
        raise DataError(
            f"the features of all {len(features)} images are the same, and nothing can be mapped; see that the network "
            "was trained well, or choose another stage"
        )
    if method == "tsne":
        found = _tsne(features, perplexity, seed)
    elif method == "umap":
        options = {"n_neighbors": UMAP_NEIGHBOURS, "min_dist": UMAP_DISTANCE, "random_state": seed, "n_jobs": 1}
        found = _library("umap").UMAP(**options).fit_transform(features)
    else:
        from sklearn.decomposition import PCA

        found = PCA(2, random_state=seed).fit_transform(features)
    return np.asarray(found, np.float32)


def _tsne(features: Float[np.ndarray, "N D"], perplexity: float, seed: int) -> Float[np.ndarray, "N 2"]:
    library = _library("tsne")
    start = library.initialization.pca(features, random_state=seed)
    method = library.TSNE(
        perplexity=perplexity,
        learning_rate=max(len(features) / EXAGGERATION, 200),
        early_exaggeration=EXAGGERATION,
        early_exaggeration_iter=EXAGGERATED,
        neighbors="exact" if features.shape[1] > APPROXIMATE_BELOW else "auto",
        random_state=seed,
        n_jobs=1,  # sums of several threads would differ in their last bits
    )
    return np.asarray(method.fit(features, initialization=start))


def check_method(method: Method) -> None:
    """Raises a ConfigError where the library of a method is not installed."""
    if method != "pca":
        _library(method)


def _library(method: Method) -> Any:
    name = {"tsne": "openTSNE", "umap": "umap"}[method]
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"maps by {method} need {name} ({error}): pip install 'resnet-jax-linen[maps]'; --method pca needs none"
        ) from error
