"""The same few pictures, with labels and captions, in every form that a source reads."""

import gzip
import io
import json
import struct
import tarfile

import numpy as np
from PIL import Image

from diffusion_jax.build import SOURCES

NAMES = ("boot", "coat")


def png(array, kind="PNG", **options):
    out = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(out, kind, **options)
    return out.getvalue()


def idx(array, packed=False):
    """The bytes of an IDX file of uint8."""
    data = (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(np.uint8).tobytes()
    )
    return gzip.compress(data) if packed else data


def squares(count=20, size=8, channels=1, seed=0):
    """(uint8 [n, size, size, channels], labels 0 and 1 in turn, captions): dark ones and light ones."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(seed).integers(0, 40, (count, size, size, channels))
    return (noise + labels[:, None, None, None] * 180).astype(np.uint8), labels, [f"a {NAMES[each]}" for each in labels]


def stored(image):
    """(ending, bytes) of an array, as a PNG, or of the bytes of a picture."""
    if not isinstance(image, bytes):
        image = png(image[..., 0] if image.shape[-1] == 1 else image)
    return {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"GIF": "gif", b"RIFF": "webp", b"II": "tif"}[
        next(magic for magic in (b"\x89PNG", b"\xff\xd8", b"GIF", b"RIFF", b"II") if image.startswith(magic))
    ], image


def write(folder, i, image):
    ending, data = stored(image)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{i:03d}.{ending}").write_bytes(data)


def as_folder(folder, images, labels, captions):
    for i, image in enumerate(images):
        write(folder, i, image)
        if captions is not None:
            (folder / f"{i:03d}.txt").write_text(captions[i])
    return {"name": "folder", "path": str(folder)}


def as_classes(folder, images, labels, captions):
    for i, image in enumerate(images):
        write(folder / NAMES[labels[i]], i, image)
    return {"name": "classes", "path": str(folder)} | ({"templates": ("a {}",)} if captions is not None else {})


def as_tar(folder, images, labels, captions):
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for i, image in enumerate(images):
            parts = dict([stored(image)])
            parts |= {} if labels is None else {"cls": str(labels[i]).encode()}
            parts |= {} if captions is None else {"txt": captions[i].encode()}
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{i:03d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return {"name": "tar", "path": str(folder / "0.tar")} | ({} if labels is None else {"class_names": NAMES})


def as_tfds(folder, images, labels, captions):
    """Without captions where there are labels."""
    import tensorflow_datasets as tfds

    class Sourced(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, None))}
            if labels is not None:
                features["label"] = tfds.features.ClassLabel(names=list(NAMES))
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, image in enumerate(images):
                label = {} if labels is None else {"label": int(labels[i])}
                yield i, {"image": io.BytesIO(stored(image)[1]), **label}

    Sourced(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return {"name": "tfds", "path": "sourced", "data_dir": str(folder)} | ({"templates": ("a {}",)} if captions else {})


def as_arrays(folder, images, labels, captions):
    folder.mkdir(parents=True)
    np.savez(folder / "a.npz", images=images, **({} if labels is None else {"labels": labels}))
    more = {} if labels is None else {"class_names": NAMES}
    return (
        {"name": "arrays", "path": str(folder / "a.npz")}
        | more
        | ({} if captions is None else {"templates": ("a {}",)})
    )


def as_parquet(folder, images, labels, captions, rows=7, name="part.parquet"):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    columns = {"image": [{"bytes": stored(image)[1], "path": None} for image in images]}
    features = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = labels.tolist()
        features["label"] = {"names": list(NAMES), "_type": "ClassLabel"}
    if captions is not None:
        columns["text"] = captions
    table = pa.table(columns)
    told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    parquet.write_table(table.replace_schema_metadata(told), folder / name, row_group_size=rows)
    return {"name": "parquet", "path": str(folder / name)}


FORMS = {
    "folder": as_folder,
    "classes": as_classes,
    "tar": as_tar,
    "tfds": as_tfds,
    "arrays": as_arrays,
    "parquet": as_parquet,
}


def source(spec, **more):
    made = {**spec, **more}
    return SOURCES[made.pop("name")](**made)
