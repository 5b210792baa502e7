"""One training step of MorphAEus (configs/cxr/morphaeus.yaml: 128 x 128, batch 64, VGG-19 up to relu4_1 with random weights, NCC in
float64, seven integration steps both ways) in PyTorch eager, as one would write it, to set beside morph's images a second.

    python3 bench/gpu_peer.py [STEPS]        prints images/s for float32, TF32 and bfloat16 autocast, as tensors lie by default and with
                                             channels innermost (channels_last)
"""
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = [16, 32, 64, 128, 256, 256, 256]
SIDE, BATCH = 128, 64
VGG = [(3, 64), (64, 64), "M", (64, 128), (128, 128), "M", (128, 256), (256, 256), (256, 256), (256, 256), "M", (256, 512)]
TAPS = {0, 3, 6, 11}


class Block(nn.Module):
    def __init__(self, conv, width):
        super().__init__()
        self.conv, self.norm = conv, nn.BatchNorm2d(width)

    def forward(self, x):
        raw = self.conv(x)
        return raw, F.silu(self.norm(raw))


class Morphaeus(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [1] + CHANNELS
        self.encoder = nn.ModuleList(Block(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in zip(widths, CHANNELS))
        back = CHANNELS[::-1]
        self.decoder = nn.ModuleList(Block(nn.Conv2d(a, b, 3, 1, 1), b) for a, b in zip([back[0]] + back, back))
        self.last = nn.Conv2d(CHANNELS[0], 1, 1)
        refine = []
        for i in range(3):
            width = CHANNELS[2 - i] + back[len(CHANNELS) - 4 + i] + (32 if i else 0)
            refine.append(Block(nn.ConvTranspose2d(width, 32, 3, 2, 1, 1), 32))
        self.refine = nn.ModuleList(refine)
        self.flow = nn.Conv2d(32, 2, 3, 1, 1)
        nn.init.normal_(self.flow.weight, 0, 1e-5)
        nn.init.zeros_(self.flow.bias)
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        self.register_buffer("grid", torch.stack([rows, columns])[None].float())

    def warp(self, src, flow):
        at = (self.grid + flow) / (SIDE - 1) * 2 - 1
        return F.grid_sample(src, at.permute(0, 2, 3, 1).flip(-1), align_corners=True)

    def integrate(self, velocity):
        flow = velocity / 2**7
        for _ in range(7):
            flow = flow + self.warp(flow, flow)
        return flow

    def forward(self, x):
        h, encoded, decoded = x, [], []
        for block in self.encoder:
            raw, h = block(h)
            encoded.append(raw)
        for block in self.decoder:
            raw, h = block(F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True))
            decoded.append(raw)
        prior = torch.sigmoid(self.last(h))
        h = None
        for i, block in enumerate(self.refine):
            parts = [encoded[2 - i], decoded[len(CHANNELS) - 4 + i]] + ([] if h is None else [h])
            h = block(torch.cat(parts, 1))[1]
        velocity = self.flow(h).float()
        prior = prior.float()
        return prior, velocity, self.warp(prior, self.integrate(velocity)), self.warp(x, self.integrate(-velocity))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.MaxPool2d(2) if c == "M" else nn.Conv2d(*c, 3, 1, 1) for c in VGG)
        self.requires_grad_(False)

    def layout(self):
        last = self.layers[1].weight.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if last else torch.contiguous_format

    def forward(self, x):
        h, taps = x.expand(-1, 3, -1, -1).contiguous(memory_format=self.layout()), []
        for i, layer in enumerate(self.layers):
            h = layer(h) if VGG[i] == "M" else F.relu(layer(h))
            if i in TAPS:
                taps.append(h)
        return taps


def ncc(i, j):
    i, j = i.double(), j.double()

    def total(t):
        rows = F.avg_pool2d(t, (9, 1), 1, (4, 0), divisor_override=1)
        return F.avg_pool2d(rows, (1, 9), 1, (0, 4), divisor_override=1)

    n = 81.0
    si, sj = total(i), total(j)
    ui, uj = si / n, sj / n
    cross = total(i * j) - uj * si - ui * sj + ui * uj * n
    vi = total(i * i) - 2 * ui * si + ui * ui * n
    vj = total(j * j) - 2 * uj * sj + uj * uj * n
    return 1 - (cross * cross / ((vi * vj).clamp_min(0) + 1e-5)).mean().float()


def smooth(v):
    rows = (v[:, :, 2:, 1:-1] - v[:, :, :-2, 1:-1]) / 2
    columns = (v[:, :, 1:-1, 2:] - v[:, :, 1:-1, :-2]) / 2
    return (rows.square() + columns.square()).mean() / 2


def measure(precision, layout, steps):
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    net, vgg = (part.cuda().to(memory_format=layout) for part in (Morphaeus(), Vgg()))
    adam = torch.optim.Adam(net.parameters(), lr=5e-4, fused=True)
    images = torch.randint(0, 255, (2 * BATCH, 1, SIDE, SIDE), dtype=torch.uint8, device="cuda")

    def step(i):
        x = images[(i % 2) * BATCH :][:BATCH].float() / 255
        adam.zero_grad(set_to_none=False) if i else None
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            prior, velocity, y, back = net(x)
            with torch.no_grad():
                want = vgg(x)
            perceptual = sum((a - b).float().square().mean() for a, b in zip(vgg(prior), want))
        loss = (prior - x).square().mean() + 0.05 * perceptual + (ncc(x, y) + ncc(prior, back)) / 2 + 0.01 * smooth(velocity)
        loss.backward()
        adam.step()
        return loss.item()

    for i in range(5):
        step(i)
    torch.cuda.synchronize()
    best = 0.0
    for _ in range(3):
        since = time.perf_counter()
        for i in range(steps):
            step(i)
        torch.cuda.synchronize()
        best = max(best, steps * BATCH / (time.perf_counter() - since))
    return best


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    print(torch.__version__, torch.cuda.get_device_name(), flush=True)
    for precision in ["float32", "tf32", "bfloat16"]:
        for layout in [torch.contiguous_format, torch.channels_last]:
            rate = measure(precision, layout, count)
            print(f"{precision:9} {layout!s:24} {rate:8.0f} images/s, {1e3 * BATCH / rate:6.2f} ms a step", flush=True)
