//! LLaMA-Factory: stages, names of data sets in its dataset_info.json, and transformers' defaults.

use super::draft::Draft;
use serde_json::{Map, Value, json};

pub(super) fn rule(draft: &mut Draft, name: &str, value: &Value, all: &Map<String, Value>) -> bool {
    let text = value.as_str().unwrap_or_default();
    match name {
        "stage" => match text {
            "sft" => draft.carry("stage", value.clone(), ""),
            "dpo" => {
                let loss = all.get("pref_loss").and_then(Value::as_str).unwrap_or("sigmoid");
                draft.loss(loss, all.get("dpo_label_smoothing"));
            }
            "kto" => draft.carry("loss_type", "kto".into(), ""),
            "rm" => {
                draft.carry("stage", "reward".into(), "");
                draft.carry("regularization", 0.into(), "there it is not regularised");
            }
            _ => draft.leave(name, value, "only sft, dpo, kto and rm have a counterpart"),
        },
        "pref_loss" => {}
        "pref_ftx" if value.as_f64() == Some(0.0) => {}
        "pref_ftx" => draft.leave(name, value, "no supervised term is added to a preference loss"),
        "kto_chosen_weight" => draft.carry("desirable_weight", value.clone(), ""),
        "kto_rejected_weight" => draft.carry("undesirable_weight", value.clone(), ""),
        "finetuning_type" => match text {
            "full" => {}
            "lora" => draft.carry("use_peft", true.into(), ""),
            _ => draft.leave(name, value, "all weights are trained, or an adapter"),
        },
        "lora_target" if text == "all" => draft.carry("lora_target_modules", json!(["all-linear"]), ""),
        "lora_target" => draft.carry("lora_target_modules", value.clone(), ""),
        "dataset" => dataset(draft, value, all),
        "dataset_dir" | "interleave_probs" | "mix_strategy" => {}
        "eval_dataset" => draft.leave(name, value, "use dataset_test_split, or eval_split"),
        "val_size" => match value.as_f64() {
            Some(share) if share < 1.0 => {
                draft.carry("eval_split", value.clone(), "a share of the prompts here")
            }
            _ => draft.leave(name, value, "eval_split is a share of the prompts, not a number of rows"),
        },
        "template" => {
            draft.carry(
                "chat_template",
                "auto".into(),
                &format!("the tokenizer's own; there it is {}", plain(text)),
            );
        }
        "quantization_bit" if value == 4 => {
            draft.carry("load_in_4bit", true.into(), "");
            if all.get("double_quantization") != Some(&Value::Bool(false)) {
                draft.carry("use_bnb_nested_quant", true.into(), "");
            }
        }
        "quantization_bit" if value == 8 => draft.carry("load_in_8bit", true.into(), ""),
        "double_quantization" => {}
        "quantization_type" => draft.carry("bnb_4bit_quant_type", value.clone(), ""),
        "quantization_method" if text == "bitsandbytes" || text == "bnb" => {}
        "fp16" | "quantization_bit" if value.is_null() || value == &Value::Bool(false) => {}
        "bf16" if value == &Value::Bool(true) => draft.carry("bf16", value.clone(), ""),
        "reward_model" | "quantization_bit" => draft.leave(name, value, "there is no counterpart"),
        _ => return false,
    }
    true
}

/// Names in dataset_info.json: which files they are stands there.
fn dataset(draft: &mut Draft, value: &Value, all: &Map<String, Value>) {
    let names: Vec<&str> = match value {
        Value::String(text) => text.split(',').map(str::trim).filter(|n| !n.is_empty()).collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let dir = all.get("dataset_dir").and_then(Value::as_str).unwrap_or("data");
    let weights: Vec<f64> = match all.get("interleave_probs") {
        Some(Value::String(text)) => text.split(',').filter_map(|w| w.trim().parse().ok()).collect(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_f64).collect(),
        _ => Vec::new(),
    };
    let weighed = weights.len() == names.len();
    let source = |(i, name): (usize, &&str)| {
        let path = format!("{dir}/{name}.json");
        if weighed { json!({"name": path, "weight": weights[i]}) } else { Value::from(path) }
    };
    let sources: Vec<Value> = names.iter().enumerate().map(source).collect();
    let value = if let [only] = sources.as_slice() { only.clone() } else { Value::Array(sources) };
    draft.carry("dataset_name", value, &format!("check the file's name in {}/dataset_info.json", plain(dir)));
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

pub(super) fn complete(draft: &mut Draft, _: &Map<String, Value>) {
    draft.default("learning_rate", json!(5e-5));
    draft.default("max_length", 2048.into());
    draft.default("eval_split", 0.into());
    draft.default("logging_steps", 500.into());
}
