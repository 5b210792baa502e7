"""What pydicom and Pillow take to make 8-bit images of 128 pixels out of the files that morph prepares. Run by scripts/bench data in a
virtual environment of its own; the same files for all.

    peers_data.py make FOLDER [N]      writes N files of each kind: DICOM, JPEG, 1024 x 1024; PNG, 16 bit, 2500 x 2048
    peers_data.py run FOLDER           prints one JSON object a line
"""

import glob
import io
import json
import os
import sys
import time
import warnings

import numpy
import PIL
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

warnings.simplefilter("ignore")


def picture(rng, height, width, top, noise):
    """Smooth shapes and film grain: compresses about as chest X-rays do."""
    y, x = numpy.mgrid[:height, :width] / max(height, width)
    lungs = sum(numpy.exp(-(((x - cx) / 0.13) ** 2 + ((y - 0.45) / 0.28) ** 2)) for cx in (0.32, 0.68))
    ribs = 0.06 * numpy.sin(60 * y + 9 * (x - 0.5) ** 2)
    image = 0.75 - 0.5 * lungs + ribs * lungs + rng.normal(0, noise, (height, width))
    return numpy.clip(image * top, 0, top)


def make(folder, n):
    os.makedirs(folder, exist_ok=True)
    rng = numpy.random.default_rng(7)
    for i in range(n):
        stream = io.BytesIO()
        Image.fromarray(picture(rng, 1024, 1024, 255, 0.012).astype("u1")).save(stream, "JPEG", quality=90)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = JPEGBaseline8Bit
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", f"2.25.{i + 1}"
        file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = 1024, 1024, 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
        file.PixelData = encapsulate([stream.getvalue()])
        file["PixelData"].is_undefined_length = True
        file.save_as(f"{folder}/{i:03}.dcm", enforce_file_format=True)
    for i in range(max(1, n // 4)):
        image = picture(rng, 2500, 2048, 4095, 0.004).astype("u2")
        Image.fromarray(image).save(f"{folder}/{i:03}.png")


def small(array):
    return numpy.asarray(Image.fromarray(array).resize((128, 128), Image.BILINEAR))


def dicom(plugin):
    def one(path):
        file = pydicom.dcmread(path)
        if plugin:
            file.pixel_array_options(decoding_plugin=plugin)
        return small(file.pixel_array)

    return one


def png(path):
    # To 8 bit, then resized: what morph does.
    words = numpy.asarray(Image.open(path))
    return small(((words.astype("u4") * 255 + 32767) // 65535).astype("u1"))


def png_only(path):
    Image.open(path).load()


def run(folder):
    jobs = [
        (f"pydicom {pydicom.__version__}, its default decoder", "dcm", dicom(None)),
        (f"pydicom {pydicom.__version__}, Pillow {PIL.__version__}", "dcm", dicom("pillow")),
        (f"Pillow {PIL.__version__}, decode only", "png", png_only),
        (f"Pillow {PIL.__version__}", "png", png),
    ]
    for peer, end, one in jobs:
        files = sorted(glob.glob(f"{folder}/*.{end}"))
        one(files[0])
        cpu = time.process_time()
        for _ in range(3):
            for path in files:
                one(path)
        each = (time.process_time() - cpu) * 1e3 / (3 * len(files))
        print(json.dumps({"peer": peer, "files": end, "figures": {"cpu_ms": each}}), flush=True)


if sys.argv[1] == "make":
    make(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 40)
else:
    run(sys.argv[2])
