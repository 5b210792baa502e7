"""One training step of MorphAEus (configs/cxr/morphaeus.yaml: VGG-19 up to relu4_1 with random weights, NCC in float64, seven
integration steps both ways) in PyTorch eager, as one would write it, to set beside morph's images a second.

    python3 bench/peers_train.py [--side 128] [--batch 64] [--steps 30]                  on a GPU: float32, TF32, bfloat16 autocast
    python3 bench/peers_train.py --device cpu --batch 8 --steps 4 --world 2   DDP over Gloo, so many processes of one thread

Each as tensors lie by default, and with channels innermost (channels_last).
"""
import argparse
import os
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CHANNELS = [16, 32, 64, 128, 256, 256, 256]
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
    def __init__(self, side):
        super().__init__()
        self.side = side
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
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        self.register_buffer("grid", torch.stack([rows, columns])[None].float())

    def warp(self, src, flow):
        at = (self.grid + flow) / (self.side - 1) * 2 - 1
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


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(args, precision, layout):
    """Images a second over all processes, the best of three."""
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    net, vgg = (part.to(args.device, memory_format=layout) for part in (Morphaeus(args.side), Vgg()))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net) if args.world > 1 and args.device == "cuda" else net
    if args.world > 1:
        model = DistributedDataParallel(model)
    adam = torch.optim.Adam(net.parameters(), lr=5e-4, fused=args.device == "cuda")
    batch = args.batch // args.world
    images = torch.randint(0, 255, (2 * batch, 1, args.side, args.side), dtype=torch.uint8, device=args.device)

    def step(i):
        x = images[(i % 2) * batch :][:batch].float() / 255
        adam.zero_grad(set_to_none=False) if i else None
        with torch.autocast(args.device, torch.bfloat16, enabled=precision == "bfloat16"):
            prior, velocity, y, back = model(x)
            with torch.no_grad():
                want = vgg(x)
            perceptual = sum((a - b).float().square().mean() for a, b in zip(vgg(prior), want))
        loss = (prior - x).square().mean() + 0.05 * perceptual + (ncc(x, y) + ncc(prior, back)) / 2 + 0.01 * smooth(velocity)
        loss.backward()
        adam.step()
        return loss.item()

    for i in range(min(5, args.steps)):
        step(i)
    synchronize()
    best = 0.0
    for _ in range(3):
        since = time.perf_counter()
        for i in range(args.steps):
            step(i)
        synchronize()
        best = max(best, args.steps * batch * args.world / (time.perf_counter() - since))
    return best


def run(rank, args):
    if args.device == "cpu":
        torch.set_num_threads(1 if args.world > 1 else args.threads)
    if args.world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
        dist.init_process_group("gloo", rank=rank, world_size=args.world)
    for precision in ["float32", "tf32", "bfloat16"] if args.device == "cuda" else ["float32"]:
        for layout in [torch.contiguous_format, torch.channels_last]:
            rate = measure(args, precision, layout)
            if rank == 0:
                print(f"PyTorch {precision:9} {layout!s:24} {rate:8.1f} images/s, {1e3 * args.batch / rate:7.2f} ms a step", flush=True)
    if args.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64, help="of all processes together")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of one process alone, on a CPU")
    parser.add_argument("--port", type=int, default=29517)
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.world} x {1 if args.world > 1 else args.threads} threads"
    print(f"torch {torch.__version__}, {where}", flush=True)
    if args.world > 1:
        processes.spawn(run, (args,), nprocs=args.world)
    else:
        run(0, args)
