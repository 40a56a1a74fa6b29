"""What the scripts of the peers share: the keys of the command line, the threads, the object that is printed."""
import json
import os
import resource
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch


def read_keys(**defaults):
    """The model of the examples' defaults and what else is given, with what KEY=VALUE says in its place."""
    keys = dict(hidden=256, layers=8, heads=4, kv_heads=2, ffn=704, vocab=32000) | defaults
    for argument in sys.argv[1:]:
        key, value = argument.split("=")
        assert key in keys, f"unknown key {key}"
        keys[key] = type(keys[key])(value)
    return keys


def use_threads():
    """As many as the examples use."""
    torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))


def report(model, **measured):
    print(
        json.dumps(
            {"parameters": sum(parameter.numel() for parameter in model.parameters())}
            | measured
            | {
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        )
    )
