"""MXNet's record files and insightface's data sets, written by the description of the formats, with nothing of ours."""

import io
import struct
from itertools import pairwise

import numpy as np
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def png(seed, shape=(9, 7, 3)):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), pixels


def framed(data):
    """dmlc-core: magic, 3 bits of a flag and 29 of a length, data, zeros. Data that hold the magic at a multiple of
    four are cut there."""
    places = [i for i in range(0, len(data) - len(data) % 4, 4) if data[i : i + 4] == MAGIC]
    parts = [data[a:b] for a, b in zip([0, *(i + 4 for i in places)], [*places, len(data)], strict=True)]
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in zip(flags, parts, strict=True)
    )


def packed(label, content=b"", key=0):
    """MXNet's IRHeader: one label in it, or as many behind it as its flag says."""
    if isinstance(label, list):
        return struct.pack("<IfQQ", len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label) + content
    return struct.pack("<IfQQ", 0, label, key, 0) + content


def write_records(folder, records, name="train"):
    """`records`: pairs of a key and bytes, in the order of the file."""
    data, lines = b"", []
    for key, record in records:
        lines.append(f"{key}\t{len(data)}\n")
        data += framed(record)
    (folder / f"{name}.rec").write_bytes(data)
    (folder / f"{name}.idx").write_text("".join(lines))


def write_identities(folder, counts=(3, 2, 4), name="train", label=lambda label: label, content=lambda i: png(i)[0]):
    """A set as insightface writes it: images 1 to N, record 0, and what is known of each identity."""
    labels = [number for number, count in enumerate(counts) for _ in range(count)]
    records = [(1 + i, packed(label(number), content(i), 1 + i)) for i, number in enumerate(labels)]
    first = len(labels) + 1
    ends = 1 + np.cumsum([0, *counts])
    about = [(first + i, packed([float(a), float(b)])) for i, (a, b) in enumerate(pairwise(ends))]
    write_records(folder, [*records, (0, packed([float(first), float(first + len(counts))])), *about], name)
    return labels
