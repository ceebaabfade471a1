"""How fast the linear probe's logistic regression is, beside scikit-learn's, on the same features in one run.

    python benchmarks/probe.py                             # 10,000 x 2,048 features, 10 classes, 8 values of C
    python benchmarks/probe.py --peer float32              # a third of the time

Both solve the same eight problems, `LogisticRegression(C=...)`. scikit-learn fits them one after the other with
`tol=1e-8` and as many iterations as it needs: from float32, which is faster, and from float64, which is more exact.
Ours counts from arrays in the memory of the host to weights in the memory of the host, the first time with compiling
and again without. The features are made to be like a network's pooled features: not negative, two thirds of them 0,
and correlated, with a spectrum that falls as a power. `--gaussian` makes plain noise around one centre for each class.

For each C and each of scikit-learn's fits the benchmark prints both objectives (mean cross-entropy and penalty,
computed in float64), by how much ours is above, and on how many images the predictions agree: of those fitted to, and
of as many as a fifth of them that are not. Last come the ratios of the times.
"""

import argparse
import time

import numpy as np

from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

from sklearn.linear_model import LogisticRegression  # noqa: E402

from resnet_jax.analysis.logistic import fit  # noqa: E402


def pooled_features(
    count: int, width: int, classes: int, *, separation: float, modes: int = 8, latent: int = 128, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, width) float32 like those of a network before its last layer, and labels.

    Each class is a mixture of Gaussians with a falling spectrum, seen through a random layer with ReLU.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    scale = np.arange(1, latent + 1) ** -0.5
    centres = rng.normal(size=(classes, modes, latent)) * scale * separation
    hidden = centres[labels, rng.integers(0, modes, count)] + rng.normal(size=(count, latent)) * scale
    hidden = hidden @ rng.normal(size=(latent, width)) / np.sqrt((scale**2).sum() * (1 + separation**2))
    features = np.maximum(hidden - 0.6 + 0.3 * rng.normal(size=(count, width)), 0)
    return (features * (0.45 / features.mean())).astype(np.float32), labels


def gaussian_features(
    count: int, width: int, classes: int, *, separation: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Independent features (count, width) float32 around one centre for each class, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, width)) * separation / 10
    return (centres[labels] + rng.normal(size=(count, width))).astype(np.float32), labels


def judged(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, intercept: np.ndarray, c: float) -> float:
    """The objective in float64, divided by C times the number of rows."""
    logits = features.astype(np.float64) @ weights.astype(np.float64).T + intercept
    top = logits.max(1, keepdims=True)
    losses = top[:, 0] + np.log(np.exp(logits - top).sum(1)) - logits[np.arange(len(labels)), labels]
    return float(losses.mean() + (weights.astype(np.float64) ** 2).sum() / (2 * c * len(labels)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--separation", type=float, default=0.7, help="of the classes; 0.5 is hard, 2 is easy")
    parser.add_argument("--gaussian", action="store_true")
    parser.add_argument("--peer", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    args = parser.parse_args()
    cs = np.logspace(-5, 2, 8)
    make = gaussian_features if args.gaussian else pooled_features
    everything, every_label = make(args.rows + args.rows // 5, args.features, args.classes, separation=args.separation)
    features, labels = everything[: args.rows], every_label[: args.rows]
    others, other_labels = everything[args.rows :], every_label[args.rows :]
    ours = []
    for what in ("with compiling", "compiled"):
        start = time.perf_counter()
        solved = fit(features, labels, cs)
        ours.append(time.perf_counter() - start)
        print(f"ours, {what}: {ours[-1]:.2f} s for all {len(cs)}", flush=True)
    here, there = solved.predict(features), solved.predict(others)
    theirs = dict.fromkeys(args.peer, 0.0)
    print("                                                       same class, in %   accuracy, in %")
    print("C        scikit-learn   objective    ours     above      fitted  others     fitted  others   steps")
    for i, c in enumerate(cs):
        for kind in theirs:
            start = time.perf_counter()
            peer = LogisticRegression(C=c, tol=1e-8, max_iter=100_000).fit(features.astype(kind), labels)
            theirs[kind] += time.perf_counter() - start
            ours_is = judged(features, labels, solved.weights[i], solved.intercept[i], c)
            theirs_is = judged(features, labels, peer.coef_, peer.intercept_, c)
            same = [100 * (mine[i] == peer.predict(x)).mean() for mine, x in ((here, features), (there, others))]
            right = [100 * (mine[i] == y).mean() for mine, y in ((here, labels), (there, other_labels))]
            print(
                f"{c:<8.0e} {kind:<13} {theirs_is:<11.8f} {ours_is:<11.8f} {ours_is - theirs_is:<+10.1e} "
                f"{same[0]:<7.2f} {same[1]:<10.2f} {right[0]:<7.2f} {right[1]:<8.2f} {solved.steps[i]} to "
                f"{peer.n_iter_[0]}",
                flush=True,
            )
    for kind, seconds in theirs.items():
        print(
            f"scikit-learn from {kind}: {seconds:.2f} s for all {len(cs)}; ours takes {ours[0] / seconds:.3f} with "
            f"compiling, {ours[1] / seconds:.3f} without"
        )


if __name__ == "__main__":
    main()
