"""How a network is served. Standard library only."""

import re
from dataclasses import dataclass
from typing import Annotated

from resnet_jax.config.checked import AtLeastOne, Checked, Positive, Range
from resnet_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Checked):
    """Where a server listens, how it batches, and what it refuses."""

    host: str = "127.0.0.1"
    """The address to listen on. 0.0.0.0 lets other machines in; there is no authentication."""
    port: Annotated[int, Range(low=0, high=65535)] = 8000
    """0 = any that is free."""
    batch_sizes: tuple[Annotated[int, AtLeastOne], ...] = (1, 8, 32)
    """Images that are computed together: a program is compiled for each of these sizes before the server is ready."""
    aspects: tuple[str, ...] = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
    """Of a segmentation: width to height of the canvases that programs are compiled for. An image lies on the smallest
    that holds it, and a longer image is shrunk until it fits."""
    cam: bool = True
    """Compile the programs of Grad-CAM too, where the network itself is served and not an export."""
    max_bytes: Annotated[int, AtLeastOne] = 20_000_000
    """Bytes of a request's body."""
    max_pixels: Annotated[int, Range(low=1, high=80_000_000)] = 50_000_000
    """Pixels of an image, told by its header before anything is decoded."""
    held_bytes: Annotated[int, AtLeastOne] = 1_000_000_000
    """Bytes of uploads that are held in memory, of all requests together."""
    queue: Annotated[int, AtLeastOne] = 256
    """Whole uploads that are decoded, wait or are computed; more are sent away."""
    timeout: Annotated[float, Positive] = 30.0
    """Seconds from the end of an upload to its answer."""
    upload_timeout: Annotated[float, Positive] = 30.0
    """Seconds that an upload, or the head of a request, may take."""
    threads: Annotated[int, AtLeastOne] = 4
    """Threads that decode images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch_sizes:
            raise ConfigError("ServeConfig.batch_sizes = () must name at least one size, such as 1")
        for aspect in self.aspects:
            if not re.fullmatch(r"[1-9]\d{0,4}:[1-9]\d{0,4}", aspect):
                raise ConfigError(f"ServeConfig.aspects = {aspect!r} must be width:height, such as 4:3")
        if not self.aspects:
            raise ConfigError("ServeConfig.aspects = () must name at least one, such as 1:1")
        if self.held_bytes < self.max_bytes:
            raise ConfigError(
                f"ServeConfig.held_bytes = {self.held_bytes} must be at least max_bytes = {self.max_bytes}, or the "
                "largest upload would never fit"
            )
