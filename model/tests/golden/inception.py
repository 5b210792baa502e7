"""Records inception.json and inception.safetensors: what the package pytorch-fid computes of drawn images, by its own InceptionV3 and by
torchvision's, both with drawn weights. Run by hand, with torch 2.11.0, torchvision 0.26.0, pytorch-fid 0.3.0, numpy and safetensors:

    python model/tests/golden/inception.py

Every tensor is drawn by the rule of the golden vectors (`one` in model/src/parity/case.rs): splitmix64 over FNV-1a of its name,
value = a + b (2u - 1) in f32. `tensors` in the JSON has [a, b, shape] of each. Images are [H, W] in 0..1, but for the last, which is
cut off there, as every reconstruction is.
"""

import json
import os

import numpy as np
import torch
import torchvision
from pytorch_fid import fid_score, inception
from safetensors.numpy import save_file

SEED = 7
IMAGES = [("image.0", 0.5, 0.5, [48, 40]), ("image.1", 0.5, 0.5, [96, 96]), ("image.2", 0.25, 0.25, [16, 24]),
          ("image.3", 0.75, 0.25, [320, 310]), ("image.4", 0.5, 0.8, [33, 31])]


def one(name, a, b, shape):
    h = 0xCBF29CE484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001B3 % 2**64
    n = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(h ^ SEED) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    scaled = np.float32(b) * (np.float32(2) * u - np.float32(1))
    return (np.float32(a) + scaled).reshape(shape)


def spread(name, shape):
    """The middle of a tensor's values and how far they reach: He's for weights, so that features keep their size."""
    if name.endswith("conv.weight"):
        return 0.0, float(np.float32(np.sqrt(6 / np.prod(shape[1:]))))
    return {"weight": (1.0, 0.25), "bias": (0.125, 0.25), "running_mean": (0.0, 0.125), "running_var": (1.0, 0.25)}[
        name.rsplit(".", 1)[1]
    ]


def network(variant):
    """pytorch-fid's network, without its download, and with drawn weights."""
    bare = lambda **options: torchvision.models.inception_v3(
        init_weights=False, **{**options, "weights": None})
    inception._inception_v3 = lambda *_, **options: bare(**options)
    inception.load_state_dict_from_url = lambda *_, **__: drawn
    classes = 1008 if variant == "pytorch-fid" else 1000
    names = bare(num_classes=classes, aux_logits=variant == "torchvision").state_dict()
    used = [n for n in names if n.split(".")[0] not in ("fc", "AuxLogits") and not n.endswith("num_batches_tracked")]
    spec = {n: [*spread(n, names[n].shape), list(names[n].shape)] for n in used}
    drawn = {n: torch.from_numpy(one(n, *s)) for n, s in spec.items()}
    drawn |= {n: t for n, t in names.items() if n not in drawn}
    net = inception.InceptionV3([3], use_fid_inception=variant == "pytorch-fid")
    if variant == "torchvision":
        # The blocks hold the very modules of a network that is not kept: their names say which is which.
        whole = bare(num_classes=classes, aux_logits=True)
        whole.load_state_dict(drawn)
        inception._inception_v3 = lambda *_, **__: whole
        net = inception.InceptionV3([3], use_fid_inception=False)
    return net.eval(), spec


def main():
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    images = [one(*image) for image in IMAGES]
    out, facts = {}, {"seed": SEED, "images": {n: rest for n, *rest in IMAGES}, "torch": torch.__version__, "fid": {}}
    for variant in ("pytorch-fid", "torchvision"):
        net, facts["tensors"] = network(variant)
        with torch.no_grad():
            each = [net(torch.from_numpy(i).clamp(0, 1)[None, None].repeat(1, 3, 1, 1))[0][0, :, 0, 0] for i in images]
        features = torch.stack(each).numpy()
        out[variant] = features
        # The first two against the other three, as the package computes it.
        fit = lambda f: (f.mean(0), np.cov(f, rowvar=False))
        a, b = fit(features[:2].astype(np.float64)), fit(features[2:].astype(np.float64))
        facts["fid"][variant] = float(fid_score.calculate_frechet_distance(*a, *b))
        print(variant, features.mean(), features.std(0).mean(), facts["fid"][variant])
    save_file(out, os.path.join(here, "inception.safetensors"))
    with open(os.path.join(here, "inception.json"), "w") as file:
        rows = [f'    {json.dumps(n)}: {json.dumps(s)}' for n, s in facts.pop("tensors").items()]
        head = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in facts.items())
        file.write("{\n" + head + ',\n  "tensors": {\n' + ",\n".join(rows) + "\n  }\n}\n")


main()
