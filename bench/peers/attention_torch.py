#!/usr/bin/env python3
"""The attention shapes of findap-kernels/examples/bench_cuda.rs in torch: one JSON object a line, the same counts of operations.

Every backend of scaled_dot_product_attention that takes the shape, and flash_attn and its Hopper version where they are installed;
these take packed documents, which the former can only have one after the other in a batch of equal lengths. Needs torch with CUDA
in an environment of its own; nothing in the workspace needs this file.
"""
import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

WARM, RUNS = 3, 20
PACKED = [3000, 57, 1200, 13, 700, 333, 128, 1501, 64, 410, 5, 781]
SHAPES = [
    (heads, heads, dim, [length] * (16384 // length))
    for dim, heads in ((128, 16), (64, 32))
    for length in (1024, 2048, 4096, 8192, 16384)
] + [(32, 8, 128, [8192]), (32, 8, 128, PACKED)]


def times(run):
    """Seconds of each run, by the device's clock."""
    for _ in range(WARM):
        run()
    seconds = []
    for _ in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return seconds


def report(name, shape, attend, inputs, operations):
    """Times forward and backward of attend(*inputs)."""
    for kind in ("forward", "backward"):
        line = {"peer": f"{name}_{kind}", "shape": shape}
        try:
            if kind == "forward":
                with torch.no_grad():
                    seconds, count = times(lambda: attend(*inputs)), operations
            else:
                out = attend(*inputs)
                gradient = torch.randn_like(out)
                seconds = times(lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True))
                count = 2.5 * operations
            median = statistics.median(seconds)
            line |= {"median_s": median, "least_s": min(seconds), "runs": RUNS, "tflops": count / median / 1e12}
        except Exception as error:  # a backend that refuses a shape is a finding, not the end
            line["error"] = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(json.dumps(line), flush=True)


def installed(name):
    try:
        return __import__(name, fromlist=["flash_attn_varlen_func"]).flash_attn_varlen_func
    except Exception:
        return None


def main():
    torch.manual_seed(0)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    print(json.dumps({"peer": "versions", **versions, "device": torch.cuda.get_device_name()}), flush=True)
    packed_peers = {"flash_attn_2": installed("flash_attn"), "flash_attn_3": installed("flash_attn_interface")}
    backends = [("sdpa_flash", "FLASH_ATTENTION"), ("sdpa_cudnn", "CUDNN_ATTENTION"), ("sdpa_efficient", "EFFICIENT_ATTENTION")]
    for heads, key_heads, dim, documents in SHAPES:
        tokens = sum(documents)
        same = len(set(documents)) == 1
        lengths = f"{len(documents)} x {documents[0]}" if same else f"{tokens} tokens in {len(documents)} documents"
        shape = f"{lengths}, {heads}/{key_heads} heads of {dim}, causal"
        operations = sum(2 * heads * dim * length * length for length in documents)

        def numbers(count, *layout):
            return torch.randn(*layout, count, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)

        if same:
            q, k, v = (
                numbers(count, len(documents), documents[0]).transpose(1, 2) for count in (heads, key_heads, key_heads)
            )
            inputs = tuple(x.detach().requires_grad_() for x in (q, k, v))
            for name, backend in backends:
                if not hasattr(SDPBackend, backend):
                    continue

                def attend(q, k, v, backend=getattr(SDPBackend, backend)):
                    with sdpa_kernel(backend):
                        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != key_heads)

                report(name, shape, attend, inputs, operations)
        starts = torch.tensor([sum(documents[:i]) for i in range(len(documents) + 1)], device="cuda", dtype=torch.int32)
        for name, function in packed_peers.items():
            if function is None:
                continue

            def attend(q, k, v, function=function):
                out = function(q, k, v, starts, starts, max_seqlen_q=max(documents), max_seqlen_k=max(documents), causal=True)
                return out[0] if isinstance(out, tuple) else out

            inputs = tuple(numbers(count, tokens) for count in (heads, key_heads, key_heads))
            report(name, shape, attend, inputs, operations)


if __name__ == "__main__":
    main()
