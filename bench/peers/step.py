#!/usr/bin/env python3
"""The step of findap-train/examples/step.rs in transformers and torch: the same keys, the same JSON object.

Needs torch and transformers, and peft for `lora=RANK`, in an environment of its own; nothing in the workspace needs this file.
"""
import statistics
import time

from common import read_keys, report, use_threads
import torch
from transformers import LlamaConfig, LlamaForCausalLM

keys = read_keys(sequence=512, documents=1, steps=3, warm=1, compute="f32", lora=0)
use_threads()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=keys["vocab"],
    hidden_size=keys["hidden"],
    num_hidden_layers=keys["layers"],
    num_attention_heads=keys["heads"],
    num_key_value_heads=keys["kv_heads"],
    intermediate_size=keys["ffn"],
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    attn_implementation="sdpa",
)
model = LlamaForCausalLM(config).train()
if keys["lora"]:
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=keys["lora"], lora_alpha=2 * keys["lora"], target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, adapter)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
n = keys["sequence"]
length = -(-n // keys["documents"])
tokens = torch.randint(0, keys["vocab"], (1, n))
# Packed documents: positions that start again make transformers build a block-diagonal mask.
packed = {"position_ids": (torch.arange(n) % length)[None]} if keys["documents"] > 1 else {}
seconds = []
for step in range(keys["warm"] + keys["steps"]):
    begun = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=keys["compute"] == "bf16"):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False, **packed).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step >= keys["warm"]:
        seconds.append(time.perf_counter() - begun)
median = statistics.median(seconds)
report(model, step_s=median, tokens_per_s=n / median, loss=loss.item())
