use super::*;
use crate::config::{ObjectiveSection, Resolved, Stage, load_text};

/// The imported text, and what it resolves to.
fn of(text: &str) -> (String, Resolved) {
    let ours = import(text, Path::new("theirs.yaml")).unwrap();
    let resolved = load_text(&ours, "ours.yaml", &[]).unwrap_or_else(|e| panic!("{e}\n{ours}"));
    (ours, resolved)
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

const TRL: &str = "
model_name_or_path: ./models/sft
dataset_name: ./pairs
dataset_train_split: train_prefs
dataset_test_split: test_prefs
loss_type: sigmoid
label_smoothing: 0.1
beta: 0.05
learning_rate: 5.0e-7
max_length: 512
max_prompt_length: 256
attn_implementation: flash_attention_2
gradient_accumulation_steps: 4
rpo_alpha: 1.0
eval_strategy: steps
eval_steps: 50
report_to: [wandb]
";

#[test]
fn trl_keys_are_ours_and_what_is_not_is_told() {
    let (text, resolved) = of(TRL);
    says(
        &text,
        &[
            "# From theirs.yaml, a configuration of TRL.",
            "loss_type: cdpo  # DPO with label_smoothing",
            "beta: 0.05",
        ],
    );
    says(
        &text,
        &[
            "# - rpo_alpha: 1.0\n#     there is no such setting",
            "# - attn_implementation: flash_attention_2\n#     speed only",
        ],
    );
    says(&text, &["# - report_to: ", "# - max_prompt_length: 256"]);
    let config = resolved.config;
    assert!(matches!(config.objective, ObjectiveSection::Cdpo { .. }));
    assert_eq!(config.data.test_split.as_deref(), Some("test_prefs"));
    let (_, kto) = of("model_name_or_path: m\ndataset_name: d\ndesirable_weight: 1.33\n");
    assert!(matches!(kto.config.objective, ObjectiveSection::Kto { .. }));
    let (text, sft) = of("model_name_or_path: m\ndataset_name: d\nassistant_only_loss: true\n");
    assert_eq!((sft.config.stage, sft.config.data.eval_split), (Stage::Sft, 0.0));
    says(&text, &["eval_split: 0  # TRL's default"]);
    says(
        &of("model_name_or_path: m\ndataset_name: d\nloss_type: ipo\n").0,
        &["loss_type: ipo_mean  # its ipo averages"],
    );
    let refused =
        import("model_name_or_path: m\ndataset_name: d\nloss_type: [sigmoid, sft]\n", Path::new("x"))
            .unwrap();
    says(&refused, &["one loss is trained at a time"]);
}

const LLAMA_FACTORY: &str = "
model_name_or_path: ./models/base
stage: dpo
do_train: true
finetuning_type: full
pref_beta: 0.2
pref_loss: sigmoid
dataset: safe_pairs, more_pairs
interleave_probs: 0.7,0.3
template: qwen
cutoff_len: 1024
val_size: 0.1
max_samples: 1000
output_dir: saves/dpo
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
";

#[test]
fn llama_factory_stages_names_and_defaults_are_carried() {
    let (text, resolved) = of(LLAMA_FACTORY);
    let config = resolved.config;
    assert!(matches!(config.objective, ObjectiveSection::Dpo { beta: 0.2 }));
    let weights: Vec<_> = config.data.datasets.iter().map(|d| d.weight).collect();
    assert_eq!(weights, [Some(0.7), Some(0.3)]);
    assert!(config.data.named().ends_with("data/more_pairs.json"));
    assert_eq!((config.data.max_length, config.data.eval_split), (Some(1024), 0.1));
    assert_eq!(config.schedule.learning_rate, 5e-5);
    says(
        &text,
        &[
            "learning_rate: 5.0e-5  # LLaMA-Factory's default",
            "dataset_info.json",
            "there it is qwen",
            "# - max_samples: 1000",
        ],
    );
    let (_, kto) =
        of("stage: kto\nmodel_name_or_path: m\ndataset: d\nkto_rejected_weight: 0.5\ncutoff_len: 9\n");
    assert!(matches!(kto.config.objective, ObjectiveSection::Kto { .. }));
    let (_, rm) = of("stage: rm\nmodel_name_or_path: m\ndataset: d\ncutoff_len: 9\n");
    assert!(matches!(rm.config.objective, ObjectiveSection::Reward { regularization: 0.0, .. }));
    let left = import("stage: ppo\ncutoff_len: 9\nfinetuning_type: full\n", Path::new("x")).unwrap();
    says(&left, &["# - stage: ppo", "# - model_name_or_path\n#     it is not in the file and must be set"]);
}

const AXOLOTL: &str = "
base_model: ./models/base
rl: dpo
dpo_beta: 0.3
datasets:
  - path: json
    data_files: [a.jsonl, b.jsonl]
    split: train
    type: chat_template.default
    field_messages: conversation
    field_chosen: good
    field_rejected: bad
sequence_len: 2048
micro_batch_size: 2
num_epochs: 3
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
sample_packing: false
flash_attention: true
adapter:
chat_template: chatml
evals_per_epoch: 1
saves_per_epoch: 4
val_set_size: 0.0
special_tokens:
  pad_token: <pad>
";

#[test]
fn axolotl_methods_fields_and_defaults_are_carried() {
    let (text, resolved) = of(AXOLOTL.replace("val_set_size: 0.0", "val_set_size: 0.02").as_str());
    let config = resolved.config;
    assert!(matches!(config.objective, ObjectiveSection::Dpo { beta: 0.3 }));
    assert_eq!(config.data.datasets.len(), 2);
    assert_eq!(config.data.columns["chosen"], "good");
    assert_eq!((config.data.max_length, config.schedule.per_device_train_batch_size), (Some(2048), 2));
    says(
        &text,
        &[
            "chat_template: chatml",
            "eval_strategy: epoch",
            "# - saves_per_epoch: 4",
            "# - special_tokens",
            "# - datasets.type",
        ],
    );
    let (text, sft) = of("base_model: m\ndatasets: [{path: ./d.jsonl}]\n");
    assert_eq!((sft.config.stage, sft.config.schedule.num_train_epochs), (Stage::Sft, 1.0));
    says(&text, &["lr_scheduler_type: cosine  # axolotl's default"]);
}

#[test]
fn every_alias_of_the_table_is_carried() {
    for key in table::keys().filter(|key| matches!(key.status, crate::config::Status::Supported)) {
        for alias in key.aliases {
            let mut draft = Draft::new(Program::Trl);
            let value = if key.example.is_empty() { "1" } else { key.example };
            same_name(&mut draft, alias, &Value::from(value));
            assert!(draft.has(key.name) || value == "1", "{alias}: {value}");
        }
    }
}

#[test]
fn what_is_no_mapping_is_refused() {
    for text in ["- a\n- b\n", "just words", "a: [1"] {
        assert!(import(text, Path::new("x.yaml")).unwrap_err().to_string().contains("x.yaml"), "{text}");
    }
}
