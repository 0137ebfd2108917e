//! `bso config import`: a configuration of TRL, LLaMA-Factory or axolotl as one of ours, with a comment for everything
//! that could not be carried over and for every default of the other program that differs from ours.

mod axolotl;
mod draft;
mod llama_factory;
mod trl;

use super::error::ConfigError;
use super::{table, written};
use draft::Draft;
use serde_json::{Map, Value};
use std::path::Path;

/// The program that a configuration is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// TRL's scripts: the fields of ScriptArguments, ModelConfig and SFTConfig, DPOConfig or KTOConfig.
    Trl,
    /// LLaMA-Factory.
    LlamaFactory,
    /// axolotl.
    Axolotl,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Trl => "TRL",
            Self::LlamaFactory => "LLaMA-Factory",
            Self::Axolotl => "axolotl",
        }
    }

    /// Told by the keys that only one of them has.
    fn of(fields: &Map<String, Value>) -> Self {
        let has = |names: &[&str]| names.iter().any(|name| fields.contains_key(*name));
        if has(&["base_model", "sequence_len", "rl", "val_set_size"])
            || fields.get("datasets").is_some_and(Value::is_array)
        {
            Self::Axolotl
        } else if has(&["finetuning_type", "cutoff_len", "dataset_dir", "pref_beta", "pref_loss", "do_train"])
        {
            Self::LlamaFactory
        } else {
            Self::Trl
        }
    }
}

/// Our configuration, as YAML, for the one in `text`; `path` is for messages.
///
/// # Errors
/// Not YAML or not a mapping.
pub fn import(text: &str, path: &Path) -> Result<String, ConfigError> {
    let yaml = |message: String| ConfigError::Yaml { path: path.to_owned(), message };
    let parsed: Value = serde_saphyr::from_str(text).map_err(|e| yaml(e.to_string()))?;
    let Value::Object(fields) = parsed else {
        return Err(yaml("expected lines of `key: value`".to_owned()));
    };
    let program = Program::of(&fields);
    let mut draft = Draft::new(program);
    let rule = match program {
        Program::Trl => trl::rule,
        Program::LlamaFactory => llama_factory::rule,
        Program::Axolotl => axolotl::rule,
    };
    for (name, value) in &fields {
        if !rule(&mut draft, name, value, &fields) {
            same_name(&mut draft, name, value);
        }
    }
    match program {
        Program::Trl => trl::complete(&mut draft, &fields),
        Program::LlamaFactory => llama_factory::complete(&mut draft, &fields),
        Program::Axolotl => axolotl::complete(&mut draft, &fields),
    }
    Ok(draft.finish(path))
}

/// The same as [`import`], from a file.
///
/// # Errors
/// As [`import`], and a file that cannot be read.
pub fn import_file(path: &Path) -> Result<String, ConfigError> {
    import(&written::read_file(path)?, path)
}

/// Settings of other programs that have no counterpart because nothing depends on them here.
const NO_MATTER: &[(&[&str], &str)] = &[
    (
        &[
            "flash_attention",
            "flash_attn",
            "attn_implementation",
            "xformers_attention",
            "sdp_attention",
            "enable_liger_kernel",
            "use_liger_kernel",
            "torch_compile",
            "sample_packing",
            "pad_to_sequence_len",
            "group_by_length",
            "padding_free",
        ],
        "speed only: attention is exact and batches have no padding",
    ),
    (
        &[
            "dataset_num_proc",
            "preprocessing_num_workers",
            "dataloader_num_workers",
            "dataset_prepared_path",
            "overwrite_cache",
            "dataset_processes",
            "dataloader_pin_memory",
            "remove_unused_columns",
        ],
        "rows are read and tokenised on all cores",
    ),
    (
        &["deepspeed", "fsdp", "fsdp_config", "ddp_timeout", "local_rank", "ddp_find_unused_parameters"],
        "one process trains",
    ),
    (
        &[
            "wandb_project",
            "wandb_entity",
            "wandb_watch",
            "wandb_name",
            "wandb_log_model",
            "run_name",
            "push_to_hub",
            "hub_model_id",
            "plot_loss",
            "logging_first_step",
            "log_level",
        ],
        "metrics.jsonl and report.html in output_dir hold every figure",
    ),
    (
        &[
            "trust_remote_code",
            "tokenizer_type",
            "model_type",
            "use_fast_tokenizer",
            "tokenizer_name_or_path",
        ],
        "the model's folder says what it is; no code of others is run",
    ),
    (&["do_train", "do_eval", "strict", "gradient_checkpointing_kwargs", "fp16_full_eval"], "nothing to set"),
];

/// A key that is called the same here, or has a known alias.
fn same_name(draft: &mut Draft, name: &str, value: &Value) {
    if let Some((key, _)) = table::find(name) {
        draft.carry(key.name, value.clone(), "");
        return;
    }
    let why = NO_MATTER.iter().find(|(names, _)| names.contains(&name)).map(|(_, why)| *why);
    if why.is_none() && value.is_null() {
        return;
    }
    draft.leave(name, value, why.unwrap_or("there is no such setting here"));
}

#[cfg(test)]
mod tests;
