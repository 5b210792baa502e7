"""Reads with Python's own torch and onnxruntime what morph has written. Each line of standard input names a folder of one method's files
(model/tests/python/mod.rs says which); for each a line of JSON comes back: how far what was computed is apart, or the error."""

import json
import struct
import sys
import traceback

import numpy as np
import onnxruntime
import torch

TYPES = {"F32": (np.float32, torch.float32), "I64": (np.int64, torch.int64)}


def expected(path):
    """The state dict of a safetensors file, read without its package: what the .pt is held against comes from elsewhere."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
        data = file.read()
    head.pop("__metadata__", None)
    out = {}
    for name, entry in head.items():
        start, end = entry["data_offsets"]
        array = np.frombuffer(data[start:end], TYPES[entry["dtype"]][0]).reshape(entry["shape"])
        out[name] = torch.from_numpy(array.copy())
    return out


def module(lines):
    """A module with the parameters and buffers that were recorded of the paper's class, in their order."""
    root = torch.nn.Module()
    for line in lines:
        name, kind, shape, role = line.split(" ")
        *path, leaf = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        value = torch.zeros(json.loads(shape), dtype={"f32": torch.float32, "i64": torch.int64}[kind])
        if role == "parameter":
            at.register_parameter(leaf, torch.nn.Parameter(value))
        else:
            at.register_buffer(leaf, value)
    return root


def check(net, wanted):
    got = net.state_dict()
    assert got.keys() == wanted.keys(), got.keys() ^ wanted.keys()
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype and torch.equal(got[name], value), f"{name} is not what was written"


def optimizers(net, saved, facts):
    parameters = dict(net.named_parameters())
    for key, names in facts["optimizers"].items():
        own = [parameters[name] for name in names]
        optimizer = torch.optim.Adam(own, lr=1.0, amsgrad=facts["amsgrad"])
        optimizer.load_state_dict(saved[key])
        assert optimizer.param_groups[0]["lr"] == facts["lr"], optimizer.param_groups[0]
        assert len(optimizer.state) == len(own), f"{key} has the state of {len(optimizer.state)} of {len(own)} parameters"
        for i, (name, parameter) in enumerate(zip(names, own)):
            state = optimizer.state[parameter]
            assert state["exp_avg"].shape == parameter.shape, name
            assert float(state["step"]) == i + 1, f"{name} has taken {state['step']} steps"
        # It can go on.
        for parameter in own:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert all(p.isfinite().all() for p in own)


def read(folder):
    facts = json.load(open(f"{folder}/facts.json"))
    wanted = expected(f"{folder}/state.safetensors")
    net = module(facts["recorded"])
    net.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
    check(net, wanted)

    saved = torch.load(f"{folder}/paper.pt", weights_only=True)
    net = module(facts["recorded"])
    net.load_state_dict(saved["model_weights"])
    check(net, wanted)
    assert saved["epoch"] == facts["epoch"] and set(saved) == {"model_weights", "epoch", *facts["optimizers"]}, saved.keys()
    optimizers(net, saved, facts)

    side = facts["side"]
    planes = np.fromfile(f"{folder}/planes.f32", np.float32).reshape(2, -1, side, side)
    x = np.fromfile(f"{folder}/x.f32", np.float32).reshape(2, 1, side, side)
    with torch.no_grad():
        traced = torch.jit.load(f"{folder}/net.ts")(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(f"{folder}/net.onnx", providers=["CPUExecutionProvider"])
    graph = np.concatenate(session.run(None, {"image": x}), axis=1)
    assert traced.shape == planes.shape == graph.shape, (traced.shape, planes.shape, graph.shape)
    scale = float(np.abs(planes).max())
    far = lambda a: float(np.abs(a.astype(np.float64) - planes).max()) / scale
    return {"torchscript": far(traced), "onnx": far(graph)}


torch.set_num_threads(1)
print(json.dumps({"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}), flush=True)
for line in sys.stdin:
    try:
        answer = read(line.rstrip("\n"))
    except Exception as e:  # what is wrong is for the test to say, of every method
        answer = {"error": "".join(traceback.format_exception(e))}
    print(json.dumps(answer), flush=True)
