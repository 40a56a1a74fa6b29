#!/usr/bin/env python3
"""What findap-train/examples/inference.rs does, in transformers and lm_eval: the same keys, the same model, the same JSON object.

Needs torch, transformers and lm_eval in an environment of its own; nothing in the workspace needs this file. The example writes
the model, so it runs first.
"""
import logging
import os
import time

os.environ.setdefault("TQDM_DISABLE", "1")
from common import read_keys, report, use_threads
import torch
import transformers
from lm_eval.models.huggingface import HFLM

transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)
QUESTION_TOKENS, ANSWERS, ANSWER_TOKENS = 128, 4, 4
keys = read_keys(prompts=32, prompt_tokens=64, new_tokens=64, questions=32, temperature_percent=0)
use_threads()
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


# of the whole vocabulary: no top-k, which is 50 otherwise
is_greedy = keys["temperature_percent"] == 0
sampling = dict(do_sample=False) if is_greedy else dict(do_sample=True, temperature=keys["temperature_percent"] / 100, top_k=0)
torch.manual_seed(0)


def generate(prompts):
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        **sampling,
        max_new_tokens=keys["new_tokens"],
        eos_token_id=-1,
        pad_token_id=0,
        output_logits=is_greedy,
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
# drawn tokens are not ours
logp = torch.stack(generated.logits, 1).double().log_softmax(-1).gather(-1, new[..., None]).sum().item() if is_greedy else None
report(
    model,
    generated_tokens_per_s=new.numel() / generate_s,
    scored_items_per_s=len(pairs) / score_s,
    generated_logp=logp,
    scored_logp=sum(logp for logp, _ in scores),
)
