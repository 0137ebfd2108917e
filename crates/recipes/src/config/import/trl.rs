//! TRL: our keys are its keys; what differs is how the method is named (by the script, not in the file) and a few values.

use super::draft::Draft;
use serde_json::{Map, Value};

/// Settings that only one of TRL's scripts knows.
const OF_SFT: [&str; 6] = [
    "assistant_only_loss",
    "completion_only_loss",
    "dataset_text_field",
    "packing_strategy",
    "eval_packing",
    "eos_token",
];
const OF_KTO: [&str; 2] = ["desirable_weight", "undesirable_weight"];

pub(super) fn rule(draft: &mut Draft, name: &str, value: &Value, all: &Map<String, Value>) -> bool {
    match (name, value) {
        ("loss_type", Value::String(loss)) if loss == "kto" => draft.carry("loss_type", value.clone(), ""),
        ("loss_type", Value::String(loss)) => draft.loss(loss, all.get("label_smoothing")),
        ("loss_type", Value::Array(losses)) => match losses.as_slice() {
            [Value::String(only)] => draft.loss(only, all.get("label_smoothing")),
            _ => draft.leave(name, value, "one loss is trained at a time"),
        },
        ("dataset_config", _) => {
            draft.leave(name, value, "give the files or folder of this configuration in dataset_name");
        }
        ("datasets", _) => {
            draft.leave(name, value, "a mixture is a list of {name, weight, split} in dataset_name")
        }
        ("fp16", Value::Bool(true)) => draft.leave(name, value, "compute in `dtype: bf16` or `f32`"),
        ("fp16", _) => {}
        (
            "reference_free" | "rpo_alpha" | "sync_ref_model" | "use_weighting" | "ld_alpha",
            Value::Bool(false) | Value::Null,
        ) => {}
        _ => return false,
    }
    true
}

pub(super) fn complete(draft: &mut Draft, all: &Map<String, Value>) {
    let has = |names: &[&str]| names.iter().any(|name| all.contains_key(*name));
    if !draft.has("loss_type") && !draft.has("stage") {
        if has(&OF_KTO) {
            draft.carry("loss_type", "kto".into(), "told by desirable_weight or undesirable_weight");
        } else if has(&OF_SFT) {
            draft.carry("stage", "sft".into(), "told by settings of SFTConfig");
        } else if !has(&["loss_type"]) {
            draft.loss("sigmoid", all.get("label_smoothing"));
        }
    }
    // TRL holds out nothing by itself; it evaluates on the test split where one is asked for.
    if !draft.has("dataset_test_split") && !draft.has("eval_split") {
        let evaluates =
            draft.has("eval_strategy") && all.get("eval_strategy").and_then(Value::as_str) != Some("no");
        if evaluates {
            draft.default("dataset_test_split", "test".into());
        } else {
            draft.default("eval_split", 0.into());
        }
    }
}
