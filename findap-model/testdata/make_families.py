#!/usr/bin/env python3
"""Tiny models of other dense families with random weights, and what transformers says of them (torch 2.15, transformers 5.23).
usage: family.py GOLDEN_DIR OUT_DIR   (GOLDEN_DIR has data/tokens.json, data/train.json, out/generate_tiny.json)"""
import json, os, pathlib, sys
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch, torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, GenerationConfig)
gold, out = map(pathlib.Path, sys.argv[1:3]); torch.set_num_threads(1)
rope = {"rope_type": "default", "rope_theta": 10000.0}
common = dict(vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=512, rms_norm_eps=1e-6, rope_parameters=rope, initializer_range=0.2, bos_token_id=2037, eos_token_id=[2038, 2046], pad_token_id=2041)
two_heads = {**common, "num_attention_heads": 2, "num_key_value_heads": 1}  # of 16 numbers each
configs = {
    "tiny_mistral": MistralConfig(**common, head_dim=16, sliding_window=9, tie_word_embeddings=False),
    "tiny_qwen2": Qwen2Config(**two_heads, use_sliding_window=True, sliding_window=7, max_window_layers=1, tie_word_embeddings=True),
    "tiny_qwen3": Qwen3Config(**common, head_dim=32, tie_word_embeddings=True),
    "tiny_biased": LlamaConfig(**two_heads, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
}
class Norm64(torch.nn.Module):
    def __init__(s, n): super().__init__(); s.weight, s.eps = n.weight, n.variance_epsilon
    def forward(s, x): return s.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + s.eps))
class Rope64(torch.nn.Module):
    def __init__(s, r): super().__init__(); s.inv, s.k = r.inv_freq.double(), r.attention_scaling
    def forward(s, x, position_ids):
        f = position_ids[..., None].double() * s.inv; e = torch.cat((f, f), -1); return (e.cos() * s.k).to(x.dtype), (e.sin() * s.k).to(x.dtype)
def load(folder, dtype):
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    if dtype == torch.float64:
        for mod in list(m.modules()):
            for n, c in list(mod.named_children()):
                if type(c).__name__.endswith("RMSNorm"): setattr(mod, n, Norm64(c))
        m.model.rotary_emb = Rope64(m.model.rotary_emb)
    return m
tokens = json.load(open(gold / "data/tokens.json")); train = json.load(open(gold / "data/train.json"))
prompts = [c["prompt_ids"] for c in json.load(open(gold / "out/generate_tiny.json"))]
for name, cfg in configs.items():
    torch.manual_seed(sum(map(ord, name))); m = AutoModelForCausalLM.from_config(cfg).eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            if n.endswith("norm.weight"): p.copy_(1 + 0.2 * torch.randn(p.shape))
            if n.endswith(".bias"): p.copy_(0.3 * torch.randn(p.shape))
    m = m.to(torch.bfloat16); m.config.dtype = "bfloat16"
    m.generation_config = GenerationConfig(bos_token_id=2037, eos_token_id=[2038, 2046], pad_token_id=2041, do_sample=False)
    folder = out / "models" / name; m.save_pretrained(folder)
    if name == "tiny_mistral":  # the older spelling
        c = json.loads((folder / "config.json").read_text()); r = c.pop("rope_parameters"); c["rope_theta"] = r["rope_theta"]
        c["torch_dtype"] = c.pop("dtype"); c["transformers_version"] = "4.43.0"; (folder / "config.json").write_text(json.dumps(c, indent=2))
    ten = {}
    with torch.no_grad():
        for tag, dt in (("f32", torch.float32), ("f64", torch.float64)):
            m = load(folder, dt)
            for i, p in enumerate(tokens["packed"]):
                losses = []
                for d in p["docs"]:
                    x = torch.tensor([d]); lg = m(input_ids=x).logits[0]
                    losses += [torch.zeros(1, dtype=dt), F.cross_entropy(lg[:-1], x[0, 1:], reduction="none") if len(d) > 1 else torch.zeros(0, dtype=dt)]
                ten[f"packed{i}.loss.{tag}"] = torch.cat(losses)
    m = load(folder, torch.float32).train(); rows = [r for mb in train["steps"][0] for r in mb["rows"]]
    total = sum(sum(d["mask"][1:]) for r in rows for d in r["docs"]); loss = 0.0
    for r in rows:
        for d in r["docs"]:
            if len(d["ids"]) < 2: continue
            x = torch.tensor([d["ids"]]); msk = torch.tensor(d["mask"][1:]).bool()
            nll = (F.cross_entropy(m(input_ids=x, use_cache=False).logits[0, :-1], x[0, 1:], reduction="none") * msk).sum()
            (nll / total).backward(); loss += nll.item()
    save_file(ten, out / "out" / f"logits_{name}.safetensors")
    save_file({n: p.grad.detach().clone() for n, p in m.named_parameters()}, out / "out" / f"grads_{name}.safetensors")
    m.eval(); made = []
    with torch.no_grad():
        for ids in prompts:
            x = torch.tensor([ids]); y = m.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=48, do_sample=False)[0, len(ids):].tolist()
            made.append({"prompt_ids": ids, "new_ids": y, "stopped": y[-1] in (2038, 2046)})
    json.dump({"loss": loss / total, "targets": total, "generated": made}, open(out / "out" / f"family_{name}.json", "w"))
    print(name, loss / total, [len(g["new_ids"]) for g in made], [max(len(d) for d in p["docs"]) for p in tokens["packed"]], sum(p.numel() for p in m.parameters()))
