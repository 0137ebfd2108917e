"""The same preference training in TRL: DPO with beta 0.1, one pass, AdamW, lr 1e-6, T(D) (swap, drop) applied to the pairs; from start to saved model.
Needs torch, transformers, trl, datasets. Usage: trl_job.py SETTINGS (JSON: model, pairs, dtype, batch, max_length, whole, threads)."""
import json, os, sys, tempfile, time

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

s = json.loads(sys.argv[1])
started = float(os.environ["BSO_BENCH_STARTED"])
torch.set_num_threads(s["threads"])
tokenizer = AutoTokenizer.from_pretrained(s["model"])
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


class Clock(TrainerCallback):
    first_step = None

    def on_step_begin(self, *_, **__):
        self.first_step = self.first_step or time.time()


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
        bf16=s["dtype"] == "bf16", use_cpu=True, gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=1,
        disable_tqdm=True, seed=0, dataloader_num_workers=0)
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32)
    clock = Clock()
    trainer = Trainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock])
    begun = time.time()
    trainer.train()
    trained = time.time()
    trainer.save_model(output)
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
answer = {"startup_seconds": clock.first_step - started - trainer.reference_seconds, "reference_seconds": trainer.reference_seconds,
          "training_seconds": trained - begun, "first_loss": losses[0], "last_loss": losses[-1], "versions": f"trl {trl.__version__}"}
if s["whole"]:
    logps = [x for name in ("ref_chosen_logps", "ref_rejected_logps") for x in trainer.train_dataset[name]]
    answer["mean_reference_log_prob"] = sum(map(float, logps)) / len(logps)
print(json.dumps(answer))
