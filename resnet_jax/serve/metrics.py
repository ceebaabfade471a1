"""What Prometheus is told."""

from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts of one server.

    Args:
      sizes: of batches.
      queue: says how many requests are inside.
      ready: says whether the server is ready.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, sizes: Sequence[int], queue: Callable[[], int], ready: Callable[[], bool]) -> None:
        self._registry = here = CollectorRegistry()
        name = lambda what: f"resnet_jax_{what}"
        self._requests = Counter(name("requests"), "Requests by path and status.", ["path", "status"], registry=here)
        self._seconds = Histogram(
            name("request_seconds"), "From a request's head to its answer.", ["path"], buckets=_SECONDS, registry=here
        )
        self._images = Histogram(
            name("batch_images"), "Images in a batch, without padding.", buckets=sorted(set(sizes)), registry=here
        )
        self._padding = Counter(name("padding_images"), "Rows of batches that were padding.", registry=here)
        Gauge(name("queue"), "Whole uploads that have no answer yet.", registry=here).set_function(queue)
        Gauge(name("ready"), "1 = ready, 0 = compiling or stopping.", registry=here).set_function(ready)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts a request. 499 = the client was gone."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def computed(self, images: int, size: int) -> None:
        """Counts a batch."""
        self._images.observe(images)
        self._padding.inc(size - images)

    def text(self) -> bytes:
        return generate_latest(self._registry)
