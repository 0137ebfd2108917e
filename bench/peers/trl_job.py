"""The same preference training in TRL: DPO with beta 0.1, one pass, AdamW, lr 1e-6, T(D) (swap, drop) applied to the pairs; from start to saved model.
Needs torch, transformers, trl, datasets, for an adapter peft. Usage: trl_job.py SETTINGS (JSON: model, pairs, peer_pairs, dtype, batch,
max_length, whole, method, peer_weights, device, threads). The best configuration that is there: reference log-probs computed once, fused AdamW,
no padding where FlashAttention is installed, Liger's kernels where they are; what was taken stands in `versions`."""
import json, os, statistics, sys, tempfile, time

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback

from device import adapter, attention, installed, memory, on_gpu, prepare, wait, weights

s = json.loads(sys.argv[1])
started = float(os.environ["BSO_BENCH_STARTED"])
prepare(s)
lora, padding_free, liger = s["method"].startswith("lora"), attention(s) != "sdpa", on_gpu(s) and installed("liger_kernel")
# A made tokenizer says so; AutoTokenizer would take it for the family's own, which drops every word.
named = json.load(open(os.path.join(s["model"], "tokenizer_config.json"), encoding="utf-8")).get("tokenizer_class")
tokenizer = (PreTrainedTokenizerFast if named == "PreTrainedTokenizerFast" else AutoTokenizer).from_pretrained(s["model"])
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
rows = []
for line in open(s["pairs"], encoding="utf-8"):
    row = json.loads(line)
    safe, chosen = [row["is_response_0_safe"], row["is_response_1_safe"]], row["better_response_id"]
    if not safe[chosen]:
        chosen = 1 - chosen
    if safe[chosen]:
        say = lambda role, text: [{"role": role, "content": text}]
        rows.append({"prompt": say("user", row["prompt"]), "chosen": say("assistant", row[f"response_{chosen}"]),
                     "rejected": say("assistant", row[f"response_{1 - chosen}"])})


if s["peer_pairs"]:
    rows = rows[: s["peer_pairs"]]


class Clock(TrainerCallback):
    first_step, last, steps = None, None, []

    def on_step_begin(self, *_, **__):
        self.first_step = self.first_step or time.time()
        self.last = self.last or time.perf_counter()

    def on_step_end(self, *_, **__):
        wait(s)
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now


class Trainer(trl.DPOTrainer):
    reference_seconds = 0.0

    def _precompute_ref_logps(self, *arguments, **named):
        start = time.time()
        dataset = super()._precompute_ref_logps(*arguments, **named)
        self.reference_seconds += time.time() - start
        return dataset


with tempfile.TemporaryDirectory() as output:
    config = trl.DPOConfig(
        output_dir=output, per_device_train_batch_size=s["batch"], num_train_epochs=1, max_steps=-1 if s["whole"] else 1,
        learning_rate=1e-6, beta=0.1, loss_type=["sigmoid"], max_length=s["max_length"], precompute_ref_log_probs=s["whole"],
        bf16=s["dtype"] == "bf16", use_cpu=not on_gpu(s), gradient_checkpointing=s["method"].endswith("checkpointed"),
        padding_free=padding_free, use_liger_kernel=liger, optim="adamw_torch_fused", report_to=[], save_strategy="no", logging_steps=1,
        disable_tqdm=True, seed=0, dataloader_num_workers=0)
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=weights(s, lora), attn_implementation=attention(s))
    clock = Clock()
    trainer = Trainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock],
                      peft_config=adapter() if lora else None)
    begun = time.time()
    trainer.train()
    trained = time.time()
    trainer.save_model(output)
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
answer = {"startup_seconds": clock.first_step - started - trainer.reference_seconds, "reference_seconds": trainer.reference_seconds,
          "training_seconds": trained - begun, "first_loss": losses[0], "last_loss": losses[-1], "pairs": len(rows), "steps": len(clock.steps), **memory(s),
          "step_seconds": statistics.median(clock.steps[2:] or clock.steps),
          "versions": f"trl {trl.__version__}, {attention(s)}" + (", padding-free" if trainer.padding_free else "") + (", Liger" if liger else "")}
if s["whole"]:
    logps = [x for name in ("ref_chosen_logps", "ref_rejected_logps") for x in trainer.train_dataset[name]]
    answer["mean_reference_log_prob"] = sum(map(float, logps)) / len(logps)
print(json.dumps(answer))
