//! Keys of low-rank adapters, which are known by name and not there yet.

use super::super::key::{Category::Lora, Key, Kind, Range};

const PEFT: &str = "TRL ModelConfig";
const WHY: &str = "adapters are not trained by this version; all weights are. Use `use_peft: false`";

pub(super) const KEYS: &[Key] = &[
    Key::new("use_peft", Lora, Kind::Bool, "false")
        .says(PEFT, "Train a low-rank adapter in place of all weights.")
        .not_yet(WHY),
    Key::new("lora_r", Lora, Kind::Integer { min: 1, max: 65536 }, "16")
        .says(PEFT, "Rank.")
        .not_yet(WHY)
        .aliases(&["lora_rank"]),
    Key::new("lora_alpha", Lora, Kind::Real(Range::POSITIVE), "32")
        .says(PEFT, "Scale; the update is alpha / r.")
        .not_yet(WHY),
    Key::new("lora_dropout", Lora, Kind::Real(Range::below(0.0, 1.0)), "0.05")
        .says(PEFT, "Dropout before the adapter.")
        .not_yet(WHY),
    Key::optional("lora_target_modules", Lora, Kind::Words, &["none"], "all linear layers")
        .says(PEFT, "Names of the layers that get one.")
        .not_yet(WHY),
    Key::new("use_rslora", Lora, Kind::Bool, "false").says(PEFT, "Scale by alpha / sqrt(r).").not_yet(WHY),
    Key::new("use_dora", Lora, Kind::Bool, "false")
        .says(PEFT, "Decompose magnitude and direction.")
        .not_yet(WHY),
];
