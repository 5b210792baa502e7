"""How fast others make batches of the same images. Run by scripts/bench data stream in a virtual environment of its own.

Reads what worker/examples/stream.rs has written: png/ (a file an image) and raw.bin (the pixels of all). Every peer shuffles, and
gives batches of float32 in 0..1, as morph does; the first pass is not measured. Prints one JSON object a line.
"""

import glob
import json
import os
import resource
import shutil
import sys
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

folder, side, batch, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
raw = np.fromfile(f"{folder}/raw.bin", dtype=np.uint8).reshape(-1, side, side)
count = len(raw)


def scaled(images):
    return torch.from_numpy(images).unsqueeze(-3).float() / 255.0


class Files(Dataset):
    """One file an image."""

    def __init__(self, kind):
        self.kind, self.names = kind, sorted(glob.glob(f"{folder}/{kind}/*"))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        if self.kind == "npy":
            return scaled(np.load(self.names[i]))
        from PIL import Image

        with Image.open(self.names[i]) as image:
            return scaled(np.array(image))


def measure(peer, loader, size=batch):
    def a_pass():
        seen = 0
        for x in loader:
            x = x[0] if isinstance(x, (list, tuple)) else x
            assert x.dtype == torch.float32 and float(x[0].max()) <= 1.0
            seen += len(x)
        assert seen >= count - size * 4, f"{peer}: {seen} of {count}"
        return seen

    start = time.perf_counter()
    a_pass()
    first = time.perf_counter() - start
    start, seen = time.perf_counter(), 0
    for _ in range(epochs):
        seen += a_pass()
    rate = seen / (time.perf_counter() - start)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    print(
        json.dumps({"peer": peer, "what": "warm cache", "images_per_second": rate, "first_pass_s": first, "memory_mb": memory}),
        flush=True,
    )


def dataloader(kind, persistent=True):
    if kind == "npy":
        os.makedirs(f"{folder}/npy", exist_ok=True)
        for i, image in enumerate(raw):
            np.save(f"{folder}/npy/{i:08}.npy", image)
    loader = DataLoader(
        Files(kind), batch_size=batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=persistent
    )
    measure(f"torch {torch.__version__} DataLoader(num_workers=2), .{kind} files", loader)


def mosaic():
    import streaming

    out = f"{folder}/mds"
    shutil.rmtree(out, ignore_errors=True)
    with streaming.MDSWriter(out=out, columns={"x": f"ndarray:uint8:{side},{side}"}, compression=None) as writer:
        for image in raw:
            writer.write({"x": image})
    # Left by a run that was killed; they would stop this one.
    streaming.base.util.clean_stale_shared_memory()

    class Images(streaming.StreamingDataset):
        def __getitem__(self, i):
            return scaled(super().__getitem__(i)["x"].copy())

    data = Images(local=out, shuffle=True, batch_size=batch)
    loader = DataLoader(data, batch_size=batch, num_workers=2, drop_last=True, persistent_workers=True)
    measure(f"MosaicML Streaming {streaming.__version__}, MDS of raw pixels, num_workers=2", loader)


def web():
    import webdataset as wds

    os.makedirs(f"{folder}/wds", exist_ok=True)
    with wds.ShardWriter(f"{folder}/wds/%06d.tar", maxcount=1024, verbose=0) as writer:
        for i, image in enumerate(raw):
            writer.write({"__key__": f"{i:08}", "x.bin": image.tobytes()})
    shards = sorted(glob.glob(f"{folder}/wds/*.tar"))

    def decode(pixels):
        return scaled(np.frombuffer(pixels, dtype=np.uint8).reshape(side, side).copy())

    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=1).shuffle(1000)
    data = data.to_tuple("x.bin").map_tuple(decode).batched(batch, partial=False)
    loader = wds.WebLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    measure(f"WebDataset {wds.__version__}, tar of raw pixels, num_workers=2", loader)


for job in (lambda: dataloader("png"), lambda: dataloader("npy"), mosaic, web):
    try:
        job()
    except ImportError as missing:
        print(f"left out: {missing}", file=sys.stderr)
