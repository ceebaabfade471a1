"""Small data sets with boxes, as files."""

import json

import numpy as np
from PIL import Image


def write_image(path, width=80, height=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def coco_annotation(number, image, box, category=1, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3] * 0.5,
        "iscrowd": 0,
        **more,
    }


def coco_data(annotations, images=3, categories=((1, "cat"), (3, "dog"))):
    return {
        "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in categories],
    }


def write_coco(root, splits):
    """`splits`: for each split COCO's data; the images are made."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (split, data) in enumerate(splits.items()):
        for place, image in enumerate(data["images"]):
            write_image(root / split / image["file_name"], image["width"], image["height"], 100 * number + place)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


def write_voc_boxes(root, splits, size=(80, 60)):
    """`splits`: for each split the objects of each image, as (class, xmin, ymin, xmax, ymax, difficult)."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, images in splits.items():
        names = []
        for place, objects in enumerate(images):
            names.append(f"{split}_{place}")
            write_image(root / "JPEGImages" / f"{names[-1]}.jpg", *size, seed=hash(split) % 1000 + place)
            boxes = "".join(
                f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{x1}</xmin>"
                f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for name, x1, y1, x2, y2, difficult in objects
            )
            sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
            (root / "Annotations" / f"{names[-1]}.xml").write_text(f"<annotation>{sides}{boxes}</annotation>")
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_csv(root, splits, header="image,xmin,ymin,xmax,ymax,label"):
    """`splits`: for each split the lines of its file; the images they name are made."""
    root.mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        for name in {line.split(",")[0] for line in lines}:
            write_image(root / name, seed=sum(map(ord, name)))
        (root / f"{split}.csv").write_text("\n".join([header, *lines]) + "\n")
    return root
