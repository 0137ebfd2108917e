//! axolotl: the method is `rl`, data sets are a list with fields of their own, intervals are counted per epoch.

use super::draft::Draft;
use serde_json::{Map, Value, json};

pub(super) fn rule(draft: &mut Draft, name: &str, value: &Value, all: &Map<String, Value>) -> bool {
    let off = value.is_null() || value == &Value::Bool(false);
    match name {
        "rl" => match value.as_str() {
            Some("kto") => draft.carry("loss_type", "kto".into(), ""),
            Some(loss @ ("dpo" | "ipo" | "orpo" | "simpo")) => {
                draft.loss(loss, all.get("dpo_label_smoothing"))
            }
            None if value.is_null() => {}
            _ => draft.leave(name, value, "only dpo, ipo and kto have a counterpart"),
        },
        "datasets" => datasets(draft, value),
        "test_datasets" => draft.leave(name, value, "use dataset_test_split, or eval_split"),
        "val_set_size" => match value.as_f64() {
            Some(share) if share < 1.0 => {
                draft.carry("eval_split", value.clone(), "a share of the prompts here")
            }
            _ => draft.leave(name, value, "eval_split is a share of the prompts, not a number of rows"),
        },
        "dpo_beta" => draft.carry("beta", value.clone(), ""),
        "kto_desirable_weight" => draft.carry("desirable_weight", value.clone(), ""),
        "kto_undesirable_weight" => draft.carry("undesirable_weight", value.clone(), ""),
        "chat_template" => match value.as_str() {
            Some("chatml") => draft.carry("chat_template", value.clone(), ""),
            Some("jinja") | None => {}
            Some(_) => draft.carry("chat_template", "auto".into(), "the tokenizer's own"),
        },
        "chat_template_jinja" if !off => {
            draft.leave(name, value, "write the template to a file and name it in chat_template")
        }
        "adapter" if off => {}
        "adapter" => draft.carry("use_peft", true.into(), ""),
        "lora_target_linear" if value == &Value::Bool(true) => {
            draft.carry("lora_target_modules", json!(["all-linear"]), "");
        }
        "lora_model_dir" | "lora_target_linear" | "load_in_8bit" | "load_in_4bit" | "fp16" | "bf16"
        | "tf32"
            if off => {}
        "bf16" if value == "auto" || value == "full" => {}
        "train_on_inputs" if off => {}
        "train_on_inputs" => draft.leave(name, value, "only the response is scored"),
        "evals_per_epoch" if value == 1 => draft.carry("eval_strategy", "epoch".into(), ""),
        "saves_per_epoch" if value == 1 => draft.carry("save_strategy", "epoch".into(), ""),
        "evals_per_epoch" | "saves_per_epoch" if !off => {
            draft.leave(name, value, "count steps: eval_steps, save_steps");
        }
        "optimizer" if value.as_str().is_some_and(|o| o.starts_with("adamw")) => {
            draft.carry("optim", "adamw".into(), "");
        }
        "special_tokens" if !off => draft.leave(name, value, "the tokenizer's files name its special tokens"),
        "warmup_ratio" | "warmup_steps" if off => {}
        "resume_from_checkpoint" if off => {}
        _ => return off && crate::config::table::find(name).is_none(),
    }
    true
}

fn datasets(draft: &mut Draft, value: &Value) {
    let items = value.as_array().cloned().unwrap_or_default();
    let mut sources = Vec::new();
    let mut columns = Map::new();
    for item in &items {
        let field = |name: &str| item.get(name).and_then(Value::as_str);
        let Some(path) = field("path") else { continue };
        // The path of a local file may be that of its loader: then data_files names it.
        let files: Vec<&str> = match item.get("data_files") {
            Some(Value::String(file)) => vec![file.as_str()],
            Some(Value::Array(files)) => files.iter().filter_map(Value::as_str).collect(),
            _ => vec![path],
        };
        for file in files {
            sources.push(match field("split").filter(|split| *split != "train") {
                Some(split) => json!({"name": file, "split": split}),
                None => Value::from(file),
            });
        }
        for (theirs, ours) in [
            ("field_prompt", "prompt"),
            ("field_messages", "prompt"),
            ("field_chosen", "chosen"),
            ("field_rejected", "rejected"),
            ("field_completion", "completion"),
            ("field_label", "label"),
        ] {
            if let Some(column) = field(theirs).filter(|column| *column != ours) {
                columns.insert(ours.to_owned(), column.into());
            }
        }
        if let Some(kind) = field("type") {
            draft.leave(
                "datasets.type",
                &Value::from(kind),
                "the schema is told from the columns; name them with `columns`, and the template with chat_template",
            );
        }
    }
    if let Some(only) = sources.first().filter(|_| sources.len() == 1) {
        draft.carry("dataset_name", only.clone(), "");
    } else if !sources.is_empty() {
        draft.carry("dataset_name", Value::Array(sources), "");
    }
    if !columns.is_empty() {
        draft.carry("columns", Value::Object(columns), "");
    }
}

pub(super) fn complete(draft: &mut Draft, all: &Map<String, Value>) {
    if !draft.has("loss_type") && all.get("rl").is_none_or(Value::is_null) {
        draft.carry("stage", "sft".into(), "there is no rl");
    }
    draft.default("num_train_epochs", 1.into());
    draft.default("per_device_train_batch_size", 1.into());
    draft.default("lr_scheduler_type", "cosine".into());
    draft.default("max_length", 512.into());
    draft.default("eval_split", 0.into());
}
