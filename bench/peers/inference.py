#!/usr/bin/env python3
"""What findap-model/examples/inference.rs does, in transformers and lm_eval: the same keys, the same model, the same JSON object.

Needs torch, transformers and lm_eval in an environment of its own; nothing in the workspace needs this file. The example writes
the model, so it runs first.
"""
import json
import logging
import os
import resource
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
import torch
import transformers
from lm_eval.models.huggingface import HFLM

transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)
keys = dict(hidden=256, layers=8, heads=4, kv_heads=2, ffn=704, vocab=32000, prompts=32, prompt_tokens=64, new_tokens=64, questions=32)
QUESTION_TOKENS, ANSWERS, ANSWER_TOKENS = 128, 4, 4
for argument in sys.argv[1:]:
    key, number = argument.split("=")
    assert key in keys, f"unknown key {key}"
    keys[key] = int(number)
threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))
torch.set_num_threads(threads)
folder = f"target/inference/{keys['hidden']}-{keys['layers']}-{keys['vocab']}"
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

state = 1


def tokens(count):
    """The same numbers as the example's: a linear congruence."""
    global state
    numbers = []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1) % 2**64
        numbers.append((state >> 33) % keys["vocab"])
    return numbers


prompts = torch.tensor([tokens(keys["prompt_tokens"]) for _ in range(keys["prompts"])])
pairs = []
for _ in range(keys["questions"]):
    question = tokens(QUESTION_TOKENS)
    # the strings only name a request
    pairs += [((str(len(pairs)), str(answer)), question, tokens(ANSWER_TOKENS)) for answer in range(ANSWERS)]


def generate(prompts):
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        max_new_tokens=keys["new_tokens"],
        eos_token_id=-1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )


scorer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
with torch.inference_mode():
    generate(prompts[:1])
    scorer._loglikelihood_tokens(pairs[:1], disable_tqdm=True)
    begun = time.perf_counter()
    generated = generate(prompts)
    generate_s = time.perf_counter() - begun
    begun = time.perf_counter()
    scores = scorer._loglikelihood_tokens(pairs, disable_tqdm=True)
    score_s = time.perf_counter() - begun
new = generated.sequences[:, keys["prompt_tokens"] :]
logp = torch.stack(generated.logits, 1).double().log_softmax(-1).gather(-1, new[..., None]).sum().item()
print(
    json.dumps(
        {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "generated_tokens_per_s": new.numel() / generate_s,
            "scored_items_per_s": len(pairs) / score_s,
            "generated_logp": logp,
            "scored_logp": sum(logp for logp, _ in scores),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "threads": threads,
            "torch": torch.__version__,
        }
    )
)
