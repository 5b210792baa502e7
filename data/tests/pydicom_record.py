"""What pydicom makes of DICOM files, and Pillow of JPEGs: run by scripts/test in a virtual environment of its own, for tests/pydicom.rs.

    python pydicom_record.py OUT

Takes pydicom's own test files and some that are made here (12 bit, signed, MONOCHROME1, in every compression that pydicom can write),
and leaves for each NAME.dcm in OUT a NAME.json and, where there are pixels, NAME.i32: stored values (after a Modality LUT Sequence where
there is one), little endian. NAME.seen are grey levels of 8 bit, where the file says how it wants to be seen. Beside them JPEGs
that Pillow writes (libjpeg-turbo), each NAME.jpg with NAME.grey: the bytes of its convert("L").
"""

import json
import pathlib
import shutil
import sys
import warnings

import numpy
import PIL
import pydicom
from PIL import Image, features
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

warnings.simplefilter("ignore")
LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91"}


def made(bits, signed, photometric):
    """A picture with noise, edges and flat parts."""
    rng = numpy.random.default_rng(bits + 100 * signed)
    y, x = numpy.mgrid[:211, :317]
    top = 2**bits - 1
    wave = (numpy.sin(x / 23) * numpy.cos(y / 31) + 1) / 2 * top * 0.9
    image = wave + rng.normal(0, top * 0.01, wave.shape)
    image[20:60, 30:200] = top
    image[100:150, 10:90] = 0
    image = numpy.clip(image, 0, top).astype(numpy.int64) - (2 ** (bits - 1) if signed else 0)
    size = 8 if bits <= 8 else 16
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, "2.25.1"
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, photometric
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = size, bits, bits - 1, int(signed)
    file.PixelData = image.astype(f"<{'i' if signed else 'u'}{size // 8}").tobytes()
    file["PixelData"].VR = "OW" if size == 16 else "OB"
    return file


def make(out):
    for bits, signed, photometric in [
        (8, False, "MONOCHROME2"),
        (10, False, "MONOCHROME1"),
        (12, False, "MONOCHROME2"),
        (12, True, "MONOCHROME2"),
        (16, False, "MONOCHROME2"),
        (16, True, "MONOCHROME2"),
    ]:
        name = f"made-{bits}{'s' if signed else 'u'}"
        made(bits, signed, photometric).save_as(out / f"{name}.dcm", enforce_file_format=True)
        for syntax, how in [
            (RLELossless, {}),
            (JPEGLSLossless, {}),
            (JPEGLSNearLossless, {"jls_error": 3}),
            (JPEG2000Lossless, {}),
            (JPEG2000, {"j2k_cr": [10]}),
        ]:
            file = made(bits, signed, photometric)
            try:
                file.compress(syntax, **how)
            except Exception as why:  # what pydicom cannot write
                print(f"not made: {name} {syntax.name}: {why}", file=sys.stderr)
                continue
            file.save_as(out / f"{name}-{syntax.split('.')[-1]}.dcm", enforce_file_format=True)
    for name, changes in SHOWN.items():
        for bits, signed in [(8, False), (12, False), (12, True), (16, True)]:
            if name == "modality" and bits == 16:
                continue  # pydicom's sums do not fit into 16 bits
            file = made(bits, signed, "MONOCHROME2")
            changes(file, bits, signed)
            file.save_as(out / f"shown-{name}-{bits}{'s' if signed else 'u'}.dcm", enforce_file_format=True)


def table(first, bits, entries):
    """A lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", numpy.asarray(entries, "<u2").tobytes())
    return Sequence([item])


def window(function, slope=None):
    def change(file, bits, signed):
        middle = 0 if signed else 2 ** (bits - 1)
        file.WindowCenter, file.WindowWidth = [middle + 11, 3], [2**bits // 3 + 2, 5]
        if function:
            file.VOILUTFunction = function
        if slope:
            file.RescaleSlope, file.RescaleIntercept = slope, -100
            file.WindowCenter = slope * (middle + 11) - 100

    return change


def modality(file, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    steps = numpy.linspace(0, 1, 200)
    file.ModalityLUTSequence = table(low + 30, 16, (numpy.sqrt(steps) * 65535).astype(int))
    window("SIGMOID")(file, 16, False)


def voi(file, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    file.VOILUTSequence = table(low + 20, 12, (numpy.linspace(0, 1, min(2**bits - 40, 3000)) ** 2 * 4095).astype(int))
    window(None)(file, bits, signed)


# What is read of how a file wants its values to be changed and seen.
SHOWN = {
    "linear": window(None),
    "exact": window("LINEAR_EXACT"),
    "sigmoid": window("SIGMOID"),
    "rescaled": window(None, 0.5),
    "modality": modality,
    "voi": voi,
}


def shown(file, stored):
    """Grey levels of 8 bit as the file wants to be seen, or None if it does not say how; and the range is what pydicom makes it."""
    values = apply_modality_lut(stored, file)
    if "VOILUTSequence" in file:
        low, high = 0, 2 ** file.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif "WindowWidth" in file:
        signed = file.PixelRepresentation == 1
        low, high = (-(2 ** (file.BitsStored - 1)), 2 ** (file.BitsStored - 1) - 1) if signed else (0, 2**file.BitsStored - 1)
        slope, intercept = file.get("RescaleSlope", 1), file.get("RescaleIntercept", 0)
        low, high = low * slope + intercept, high * slope + intercept
        if "ModalityLUTSequence" in file:
            low, high = 0, 2 ** file.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        return None
    seen = (apply_voi_lut(values, file).astype("f8") - low) / (high - low) * 255
    return numpy.clip(numpy.floor(seen + 0.5), 0, 255).astype("u1")


def record(path):
    try:
        file = pydicom.dcmread(path, force=True)
        if "PixelData" not in file or file.SamplesPerPixel != 1 or "MONOCHROME" not in file.PhotometricInterpretation:
            return False
    except Exception:
        return False
    syntax = str(getattr(file.file_meta, "TransferSyntaxUID", ""))
    fact = {"syntax": syntax, "lossy": syntax in LOSSY, "error": None}
    try:
        pixels = file.pixel_array
        fact["shape"] = pixels.shape
        if "ModalityLUTSequence" in file:
            path.with_suffix(".i32").write_bytes(apply_modality_lut(pixels, file).astype("<i4").tobytes())
        else:
            path.with_suffix(".i32").write_bytes(pixels.astype("<i8").astype("<i4").tobytes())
        seen = shown(file, pixels)
        if seen is not None:
            path.with_suffix(".seen").write_bytes(seen.tobytes())
    except Exception as why:
        fact["error"] = str(why)
    path.with_suffix(".json").write_text(json.dumps(fact))
    return True


def jpegs(out):
    """Grey and colour, every subsampling, sequential and progressive, sizes that fill no block."""
    n = 0
    for height, width in [(211, 317), (64, 64), (33, 7), (1, 1)]:
        rng = numpy.random.default_rng(height)
        y, x = numpy.mgrid[:height, :width]
        waves = [numpy.sin(x / a) * numpy.cos(y / b) * 100 + 128 for a, b in [(23, 31), (17, 40), (50, 9)]]
        noise = rng.normal(0, 6, (height, width, 3))
        colour = numpy.clip(numpy.stack(waves, axis=-1) + noise, 0, 255)
        # An edge from black to white, which rings.
        colour[height // 4 : height // 2, width // 3 :] = 255
        colour[height // 2 : height // 2 + 9, : width // 2] = 0
        image = Image.fromarray(colour.astype(numpy.uint8), "RGB")
        for mode, subsamplings in [("L", [None]), ("RGB", ["4:4:4", "4:2:2", "4:2:0"])]:
            for subsampling in subsamplings:
                for quality in [30, 75, 95]:
                    for progressive in [False, True]:
                        how = {"subsampling": subsampling} if subsampling else {}
                        kind = (subsampling or "grey").replace(":", "")
                        coding = "progressive" if progressive else "baseline"
                        path = out / f"jpeg-{height}x{width}-{kind}-q{quality}-{coding}.jpg"
                        image.convert(mode).save(path, "JPEG", quality=quality, progressive=progressive, **how)
                        with Image.open(path) as read:
                            path.with_suffix(".grey").write_bytes(read.convert("L").tobytes())
                        n += 1
    return n


out = pathlib.Path(sys.argv[1])
shutil.rmtree(out, ignore_errors=True)
out.mkdir(parents=True)
for path in sorted((pathlib.Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
    shutil.copyfile(path, out / path.name)
make(out)
n = sum(record(path) for path in sorted(out.glob("*.dcm")))
print(f"pydicom {pydicom.__version__}: {n} grey files recorded in {out}")
turbo = features.version("libjpeg_turbo")
print(f"Pillow {PIL.__version__} with libjpeg-turbo {turbo}: {jpegs(out)} JPEGs recorded")
