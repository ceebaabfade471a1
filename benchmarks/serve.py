"""How many requests a server answers, and how fast, beside the same network in plain batches.

    python benchmarks/serve.py                                  # ResNet-50 at 224 pixels; 1, 16 and 200 clients
    python benchmarks/serve.py --model resnet18 --clients 1 16 --requests 100 --rounds 1

The server is the command `serve`, in a process of its own, with random weights. The clients are coroutines of this
process; each has a connection of its own, and sends the next photograph (a JPEG of 500 x 375 pixels) when it has its
answer. Beside them, in the same round and while no client asks: the network alone in batches of the largest size, its
images ready in memory, and one thread that decodes and prepares the same photographs. So the first of these bounds what
the server can reach, and what decoding and HTTP cost is the difference. Every answer is compared with the network's.
The figures are medians over the rounds; the ratio is of requests to the plain images of the same round.
"""

import argparse
import asyncio
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import resnet_jax as rn  # noqa: E402
from resnet_jax.models import variable_shapes  # noqa: E402
from resnet_jax.run.predictor import Predictor, load_predictor  # noqa: E402


def save_random_weights(name: str, path: Path) -> None:
    """Small enough that classes are not all 0 or 1."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind, numbers = path[-1].key, rng.normal(size=leaf.shape) * (2 / max(1, np.prod(leaf.shape[:-1]))) ** 0.5
        numbers = np.ones(leaf.shape) * (0.3 if kind == "scale" else 1) if kind in ("scale", "var") else numbers
        return numbers.astype(np.float32)

    rn.save_weights(path, jax.tree_util.tree_map_with_path(draw, variable_shapes(rn.create_model(name))))


def photographs(count: int) -> list[bytes]:
    """JPEGs that compress as photographs do: smooth, with some noise."""
    rng, files = np.random.default_rng(1), []
    for _ in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)).resize((500, 375), Image.BICUBIC)
        noisy = np.clip(np.asarray(smooth) + rng.normal(0, 6, (375, 500, 1)), 0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(noisy).save(content, "JPEG", quality=88)
        files.append(content.getvalue())
    return files


class Server:
    """The command, in a process of its own."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-u", "-m", "resnet_jax", "serve", *words, "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f"  {line}", end="", flush=True)
            if found := re.search(r"^ready .*http://([\d.]+):(\d+)$", line):
                self.place = found[1], int(found[2])
                return
        raise SystemExit("the server did not start")

    def stop(self) -> None:
        self._process.terminate()
        said = self._process.communicate()[0]
        assert self._process.returncode == 0, said


async def client(
    place: tuple[str, int], files: list[bytes], turns: list[int], answers: list[tuple[int, int, float, float]]
):
    """Asks until no turn is left. An answer: which photograph, its class, the probability, the seconds."""
    reader, writer = await asyncio.open_connection(*place)
    while turns:
        which = turns.pop() % len(files)
        data = files[which]
        started = time.perf_counter()
        writer.write(b"POST /predict?top=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        assert head.startswith(b"HTTP/1.1 200"), (head, body)
        seconds = time.perf_counter() - started
        (best,) = json.loads(body)["classes"]
        answers.append((which, best["number"], best["probability"], seconds))
    writer.close()


def ask(place: tuple[str, int], files: list[bytes], clients: int, requests: int) -> tuple[float, list, list[float]]:
    """Requests in a second, all answers, and their seconds."""
    answers: list[tuple[int, int, float, float]] = []

    async def all_clients() -> None:
        turns = list(range(requests))
        await asyncio.gather(*(client(place, files, turns, answers) for _ in range(clients)))

    started = time.perf_counter()
    asyncio.run(all_clients())
    taken = time.perf_counter() - started
    assert len(answers) == requests
    return requests / taken, answers, [seconds for *_, seconds in answers]


def plain(predictor: Predictor, pixels: np.ndarray, images: int) -> float:
    """Images in a second, in batches, without decoding."""
    np.asarray(predictor.probabilities(pixels))  # wakes the threads
    started = time.perf_counter()
    batches = max(1, images // len(pixels))
    for _ in range(batches):
        np.asarray(predictor.probabilities(pixels))
    return batches * len(pixels) / (time.perf_counter() - started)


def decoding(predictor: Predictor, files: list[bytes]) -> float:
    """Images in a second that one thread decodes and prepares."""
    started = time.perf_counter()
    for data in files:
        predictor.load(data)
    return len(files) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 16, 200))
    parser.add_argument("--requests", type=int, default=600, help="of each number of clients, in each round")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=(1, 8, 32))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    files = photographs(64)
    print(f"{args.model}; photographs of {np.mean([len(data) for data in files]) / 1000:.0f} KB; {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_random_weights(args.model, weights)
        predictor = load_predictor(str(weights), model=args.model)
        pixels = np.stack([predictor.load(data) for data in files])
        rows = np.concatenate([np.asarray(predictor.probabilities(part)) for part in np.split(pixels, 4)])
        batch = pixels[np.arange(max(args.batch_sizes)) % len(pixels)]
        sizes = [str(size) for size in args.batch_sizes]
        server = Server(str(weights), "--model", args.model, "--no-cam", "--timeout", "600", "--batch-sizes", *sizes)
        alone, decoded, found = [], [], {clients: [] for clients in args.clients}
        worst = 0.0
        for _ in range(args.rounds):
            alone.append(plain(predictor, batch, args.requests))
            decoded.append(decoding(predictor, files))
            for clients in args.clients:
                rate, answers, seconds = ask(server.place, files, clients, args.requests)
                for which, label, probability, _ in answers:
                    assert label == rows[which].argmax(), "a wrong answer"
                    worst = max(worst, abs(probability - rows[which, label]))
                found[clients].append((rate, *np.percentile(seconds, (50, 95, 99)), rate / alone[-1]))
        server.stop()
    print(f"  plain batches of {len(batch)}: {statistics.median(alone):.1f} images/s")
    print(f"  decoding, one thread: {statistics.median(decoded):.1f} images/s")
    print("  clients   requests/s   / plain   ms: median      95 %      99 %")
    for clients, measured in found.items():
        rate, half, most, nearly, ratio = (statistics.median(column) for column in zip(*measured, strict=True))
        milliseconds = "".join(f"{1000 * value:>10.0f}" for value in (half, most, nearly))
        print(f"  {clients:>7}{rate:>13.1f}{ratio:>10.2f}   {milliseconds}")
    print(f"  all answers right; probabilities differ by at most {worst:.1e} from the network's, in batches of 16")


if __name__ == "__main__":
    main()
