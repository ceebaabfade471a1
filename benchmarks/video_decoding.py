"""How fast clips come out of video files, beside OpenCV's `VideoCapture` and, where it is installed, torchcodec.

    python benchmarks/video_decoding.py                                # on six videos of 300 frames that it writes
    python benchmarks/video_decoding.py --folder videos --clips 20     # on your own

`clips`: frames that follow each other from random places of random files, each file opened anew as training does. All
read the same places. OpenCV is set to the first frame by `CAP_PROP_POS_FRAMES`, which decodes forward from a key frame.
The frames of each reader are compared with those that its own library gives by sequential reading. `sequential`: whole
files from the beginning to the end, every frame as an array of RGB (OpenCV's order is BGR).

`one thread` and `threads` are `VideoFile` with `threads` 1, as batches are made, and 0. OpenCV and torchcodec choose
their threads themselves. The readers take turns (`turns.py`); the times are medians, and a ratio is the median over the
rounds of the reader's time over that of ours with threads: above 1 ours is faster. The cache of the system holds the
files.
"""

import argparse
import statistics
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import Run, take_turns

OURS = ("ours, threads", "ours, one thread")
READERS = (*OURS, "PyAV as it comes", "OpenCV", "torchcodec")
SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov")
Place = tuple[str, int]


def write_videos(folder: Path, *, count: int, frames: int, group: int) -> None:
    """H.264 of 340 x 256 pixels at 30 frames per second, as Kinetics is often stored: windows that move over photos."""
    import av
    import cv2
    from skimage import data

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for number in range(count):
        rng = np.random.default_rng(number)
        ground = cv2.resize(photographs[number % len(photographs)], (680, 512))
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"g": str(group), "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            angle = rng.uniform(0, 6)
            for i in range(frames):
                x, y = 170 + 169 * np.sin(angle + i / 40), 128 + 127 * np.cos(angle + i / 23)
                view = ground[int(y) : int(y) + 256, int(x) : int(x) + 340].astype(np.int16)
                noisy = np.clip(view + rng.integers(-6, 7, view.shape), 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
            container.mux(stream.encode())


def choose_places(paths: list[str], clips: int, frames: int) -> list[Place]:
    """The same for all readers: a file, and the number of the first frame."""
    from resnet_jax.data.video import VideoFile

    rng = np.random.default_rng(0)
    lengths = {path: len(VideoFile(path).times()) for path in paths}  # this makes the indices, which are kept
    chosen = [paths[int(rng.integers(len(paths)))] for _ in range(clips)]
    return [(path, int(rng.integers(max(lengths[path] - frames, 0) + 1))) for path in chosen]


def sums(frames: np.ndarray) -> np.ndarray:
    """A number for each frame, to compare it by."""
    return np.array([zlib.crc32(np.ascontiguousarray(frame)) for frame in frames])


def reader(name: str) -> Callable[[str, int, int], np.ndarray]:
    """The function that reads `count` frames of a file from frame `start` on; all from there on where it is 0."""
    if name in OURS:
        from resnet_jax.data.video import VideoFile

        threads = 0 if name == OURS[0] else 1

        def ours(path: str, start: int, count: int) -> np.ndarray:
            video = VideoFile(path, threads)
            length = len(video.times())
            return video.read(np.arange(start, min(start + count, length) if count else length))

        return ours
    if name == "OpenCV":
        import cv2

        def opencv(path: str, start: int, count: int) -> np.ndarray:
            capture = cv2.VideoCapture(path)
            if start:
                capture.set(cv2.CAP_PROP_POS_FRAMES, start)
            found = []
            while len(found) < count or not count:
                there, frame = capture.read()
                if not there:
                    break
                found.append(frame)
            return np.stack(found)

        return opencv
    if name == "torchcodec":
        from torchcodec.decoders import VideoDecoder

        def torchcodec(path: str, start: int, count: int) -> np.ndarray:
            decoder = VideoDecoder(path, dimension_order="NHWC")
            end = min(start + count, len(decoder)) if count else len(decoder)
            return decoder.get_frames_in_range(start, end).data.numpy()

        return torchcodec

    import av

    def pyav(path: str, start: int, count: int) -> np.ndarray:
        found = []
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number >= start:
                    found.append(frame.to_ndarray(format="rgb24"))
                    if len(found) == count:
                        break
        return np.stack(found)

    return pyav


def prepare(name: str, places: list[Place], frames: int) -> Run:
    """What reads all places, or with `frames` 0 whole files, and gives a number for each frame."""
    read = reader(name)
    first = [sums(read(path, start, frames)) for path, start in places]

    def run() -> np.ndarray:
        for path, start in places:
            read(path, start, frames)
        return np.concatenate(first)

    return run


def wrong(name: str, places: list[Place], frames: int, found: np.ndarray) -> int:
    """How many frames are not those of sequential reading with the reader's own library."""
    plain = reader("PyAV as it comes" if name in OURS else name)
    whole = {path: sums(plain(path, 0, 0)) for path, _ in places}
    wanted = np.concatenate([whole[path][start : start + frames] for path, start in places])
    return int((wanted != found).sum()) if len(wanted) == len(found) else len(wanted)


def compare(title: str, names: tuple[str, ...], places: list[Place], frames: int, rounds: int) -> None:
    times = take_turns(names, prepare, (places, frames), rounds)
    ours = times[OURS[0]].seconds
    print(f"\n{title}\n| reader | frames / s | ms each | time / ours | wrong frames |\n|--|--|--|--|--|")
    for name, (_, found, seconds) in times.items():
        middle = statistics.median(seconds)
        ratio = statistics.median(mine / own for mine, own in zip(seconds, ours, strict=True))
        bad = wrong(name, places, frames, found) if frames else 0
        print(f"| {name} | {len(found) / middle:,.0f} | {1e3 * middle / len(places):.2f} | {ratio:.2f} | {bad} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of your own videos; without it some are written")
    parser.add_argument("--videos", type=int, default=6, help="how many are written")
    parser.add_argument("--length", type=int, default=300, help="frames of a video that is written")
    parser.add_argument("--group", type=int, default=250, help="frames from key frame to key frame, at most")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--frames", type=int, default=16, help="of a clip")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if not options.folder:
            write_videos(folder, count=options.videos, frames=options.length, group=options.group)
        paths = sorted(str(path) for path in folder.iterdir() if path.suffix in SUFFIXES)
        places = choose_places(paths, options.clips, options.frames)
        names = tuple(name for name in READERS if name != "PyAV as it comes")
        compare(f"{options.clips} clips of {options.frames} frames", names, places, options.frames, options.rounds)
        compare(f"{len(paths)} whole files", READERS, [(path, 0) for path in paths], 0, options.rounds)


if __name__ == "__main__":
    main()
