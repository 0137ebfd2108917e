//! Keys of low-rank adapters.

use super::super::key::{Category::Lora, Key, Kind, Range, choice, later};

const PEFT: &str = "TRL ModelConfig";

pub(super) const KEYS: &[Key] = &[
    Key::new("use_peft", Lora, Kind::Bool, "false").says(
        PEFT,
        "Train a low-rank adapter beside frozen weights in place of all weights; where model_name_or_path is an adapter's folder, go on training that one. The run leaves PEFT's files.",
    ),
    Key::new("lora_r", Lora, Kind::Integer { min: 1, max: 65536 }, "16")
        .says(PEFT, "Rank of the adapter.")
        .aliases(&["lora_rank"]),
    Key::new("lora_alpha", Lora, Kind::Real(Range::POSITIVE), "32")
        .says(PEFT, "Scale of the adapter: its update is multiplied by alpha / r."),
    Key::new("lora_dropout", Lora, Kind::Real(Range::below(0.0, 1.0)), "0.05")
        .says(PEFT, "Share of the adapter's input that is dropped in training."),
    Key::optional("lora_target_modules", Lora, Kind::Words, &["all-linear"], "every linear layer but the head")
        .example("[q_proj, v_proj]")
        .says("bso (PEFT: by architecture)", "Layers that get one: names (whole, or what a name ends in after a dot), or one regular expression for the whole name. An untied output head may be named as well (lm_head; LoRA and rsLoRA)."),
    Key::optional("lora_modules_to_save", Lora, Kind::Words, &["none"], "nothing but the adapter is trained")
        .example("[embed_tokens, lm_head]")
        .says(PEFT, "Modules trained whole beside the adapter: embed_tokens, lm_head. A new scalar head (stage reward or cost) always is.")
        .aliases(&["modules_to_save"]),
    Key::new("use_rslora", Lora, Kind::Bool, "false")
        .says(PEFT, "Scale by alpha / sqrt(r) in place of alpha / r (rsLoRA, arXiv 2312.03732)."),
    Key::new("use_dora", Lora, Kind::Bool, "false")
        .says(PEFT, "Train magnitude and direction of the adapted weights apart (DoRA, arXiv 2402.09353)."),
    Key::new("load_in_8bit", Lora, Kind::Bool, "false").says(
        PEFT,
        "Keep the frozen matrices of linear layers in 8 bits, with a scale for each row (arXiv 2208.07339); embeddings, norms and head stay whole. A ref_model or margin_model of its own does too.",
    ),
    Key::new("load_in_4bit", Lora, Kind::Bool, "false").says(
        PEFT,
        "Keep them in 4 bits, with a scale for every 64 numbers (QLoRA, arXiv 2305.14314). The adapter is saved as always; opened or merged, it stands beside the whole base.",
    ),
    Key::new(
        "bnb_4bit_quant_type",
        Lora,
        Kind::Choice(&[choice("nf4"), later("fp4", &[], "use nf4, which loses less")]),
        "nf4",
    )
    .says(PEFT, "The sixteen levels of 4 bits."),
    Key::new("use_bnb_nested_quant", Lora, Kind::Bool, "false")
        .says(PEFT, "Keep the scales of 4 bits in 8 bits themselves: 0.37 bits less a number.")
        .aliases(&["bnb_4bit_use_double_quant"]),
];
