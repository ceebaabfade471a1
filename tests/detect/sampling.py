"""torchvision's random sampler with our draws, so that both sides learn from the same anchors and proposals."""

import jax
import numpy as np
import torch


class Drawn:
    """In the place of a `BalancedPositiveNegativeSampler`.

    Args:
      keys: of each image.
      size: numbers that we draw for an image.
      count, share: as of torchvision's.
      places: which of our numbers each of torchvision's rows has, a function of the image's place and of how many rows
        it has; None = they have all.
    """

    def __init__(self, keys, size, count, share, places=None):
        self.draws = [np.asarray(jax.random.uniform(key, (size,))) for key in keys]
        self.count, self.share, self.places = count, share, places

    def __call__(self, labels):
        chosen = ([], [])
        for image, own in enumerate(labels):
            draw = self.draws[image] if self.places is None else self.draws[image][self.places(image, len(own))]
            most = [int(self.count * self.share)]
            for kind, among in zip(chosen, (own >= 1, own == 0), strict=True):
                rows = np.flatnonzero(np.asarray(among))
                first = rows[np.argsort(draw[rows])][: most[-1]]
                most.append(self.count - len(first))
                kind.append(torch.zeros(len(own), dtype=torch.bool))
                kind[-1][first] = True
        return chosen
