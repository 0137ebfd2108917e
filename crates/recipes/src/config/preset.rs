//! Presets and methods: named sets of values with their source. `preset: NAME` fills what a configuration does
//! not say; `bso config init NAME` writes them out.

use super::error::{ConfigError, did_you_mean};

/// A named set of values.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name in `preset:` and `bso config init`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub doc: &'static str,
    /// Where its values come from.
    pub source: &'static str,
    /// The preset it starts from.
    pub base: Option<&'static Preset>,
    /// Its own keys and values, written as on the command line; they win over the base's.
    pub own: &'static [(&'static str, &'static str)],
}

impl Preset {
    /// All keys and values: the base's, then its own.
    pub fn values(&self) -> Vec<(&'static str, &'static str)> {
        let mut values = self.base.map(Preset::values).unwrap_or_default();
        for (key, value) in self.own {
            values.retain(|(inherited, _)| inherited != key);
            values.push((key, value));
        }
        values
    }
}

const fn preset(
    name: &'static str,
    doc: &'static str,
    source: &'static str,
    own: &'static [(&'static str, &'static str)],
) -> Preset {
    Preset { name, doc, source, base: None, own }
}

/// Every preset, in the order of the documentation.
pub const PRESETS: &[Preset] = &[
    preset(
        "sft",
        "Supervised fine-tuning on responses (of pairs: the chosen one).",
        "TRL SFTConfig",
        &[("stage", "sft")],
    ),
    preset(
        "bso",
        "BSO as the experiments recommend it: density-ratio matching with the logistic generator on T(D), with a small penalty (SafeDPO with a smaller offset).",
        "docs/experiments.md: safe with right labels and with wrong ones, also where the unsafe response is always the better one; more penalty costs reward",
        &[
            ("loss_type", "bso"),
            ("generator", "logistic"),
            ("safety_penalty", "2"),
            ("beta", "0.1"),
            ("log_ratio_clamp", "none"),
            ("safety_transform", "swap_drop"),
        ],
    ),
    preset(
        "bso-phi",
        "BSO with the phi(1.5) generator on the pairs as they are: keeps trading helpfulness for safety as the penalty grows, as long as the better response is not always the unsafe one.",
        "docs/experiments.md: of the settings without a transform the one that stays safest with wrong labels",
        &[
            ("loss_type", "bso"),
            ("generator", "phi_mu"),
            ("generator_params", "1.5"),
            ("safety_penalty", "10"),
            ("safety_transform", "none"),
        ],
    ),
    preset(
        "bso-logistic",
        "BSO with the logistic generator on the pairs as they are: nearest to the optimum where labels are right; bounded gradients, so its safety saturates in the penalty.",
        "docs/experiments.md: below a penalty of 10 it answers unsafe prompts, beyond 20 nothing changes",
        &[
            ("loss_type", "bso"),
            ("generator", "logistic"),
            ("safety_penalty", "10"),
            ("safety_transform", "none"),
        ],
    ),
    preset(
        "bso-kliep",
        "BSO with the KLIEP generator on the pairs as they are.",
        "docs/experiments.md: measured at a penalty of 10",
        &[
            ("loss_type", "bso"),
            ("generator", "kliep"),
            ("safety_penalty", "10"),
            ("log_ratio_clamp", "none"),
            ("safety_transform", "none"),
        ],
    ),
    preset(
        "bso-lsif",
        "BSO with the LSIF generator on the pairs as they are: the steepest of the family. It failed on SafeWorld at penalties of 2 and of 10.",
        "docs/experiments.md",
        &[
            ("loss_type", "bso"),
            ("generator", "lsif"),
            ("safety_penalty", "2"),
            ("log_ratio_clamp", "none"),
            ("safety_transform", "none"),
        ],
    ),
    preset(
        "bso-sba",
        "BSO on T(D) with the scaled power generator, clamped: the treatment of BSO's published runs, with a penalty that starts pairs well inside the clamp.",
        "BSO, arXiv 2605.12339: the generator of its Qwen2.5-0.5B run",
        &[
            ("loss_type", "bso"),
            ("generator", "sba"),
            ("generator_params", "0.2,4"),
            ("safety_penalty", "10"),
            ("beta", "0.1"),
            ("log_ratio_clamp", "-30,30"),
            ("safety_transform", "swap_drop"),
        ],
    ),
    PAPER,
    PAPER_QWEN,
    PAPER_LLAMA,
    preset(
        "dpo-helpful",
        "DPO on helpfulness alone.",
        "DPO, arXiv 2305.18290",
        &[("loss_type", "dpo"), ("beta", "0.1"), ("preference", "better")],
    ),
    preset(
        "dpo-harmless",
        "DPO on harmlessness alone.",
        "DPO, arXiv 2305.18290",
        &[("loss_type", "dpo"), ("beta", "0.1"), ("preference", "safer")],
    ),
    preset(
        "dpo-safe-better",
        "DPO on the helpfulness pairs whose chosen response is safe.",
        "SafeDPO, arXiv 2505.20065",
        &[("loss_type", "dpo"), ("beta", "0.1"), ("preference", "safe_better")],
    ),
    preset(
        "cdpo",
        "DPO that takes a share of the preference labels for swapped.",
        "Mitchell 2023, A note on DPO with noisy preferences; smoothing 0.1 from there",
        &[("loss_type", "cdpo"), ("beta", "0.1"), ("label_smoothing", "0.1")],
    ),
    preset(
        "ipo",
        "IPO on summed log-probs, the paper's equation.",
        "IPO, arXiv 2310.12036",
        &[("loss_type", "ipo"), ("beta", "0.1")],
    ),
    preset(
        "ipo_mean",
        "IPO on per-token means, TRL's reading.",
        "IPO, arXiv 2310.12036; TRL",
        &[("loss_type", "ipo_mean"), ("beta", "0.1")],
    ),
    preset(
        "hinge",
        "The hinge on the margin (SLiC).",
        "SLiC-HF, arXiv 2305.10425; TRL",
        &[("loss_type", "hinge"), ("beta", "0.1")],
    ),
    preset(
        "safedpo",
        "SafeDPO: DPO on T(D) with the safety offset delta.",
        "SafeDPO, arXiv 2505.20065",
        &[
            ("loss_type", "safedpo"),
            ("beta", "0.1"),
            ("delta", "10"),
            ("preference", "better"),
            ("safety_transform", "swap_drop"),
            ("num_train_epochs", "3"),
            ("learning_rate", "1e-6"),
            ("lr_scheduler_type", "cosine"),
        ],
    ),
    preset(
        "bfpo",
        "BFPO: a squared loss whose target follows the safety labels. replay_dataset_name adds the same loss on general pairs, as the published run does.",
        "BFPO, arXiv 2408.15313, published run",
        &[("loss_type", "bfpo"), ("beta", "0.01"), ("b1", "3"), ("alpha", "0.5"), ("preference", "better")],
    ),
    preset(
        "modpo",
        "MODPO: a safer model by DPO, then DPO on helpfulness with its log-ratios as margins. (With margin_model named, or recipe none and margins in the rows, the first stage is left out.)",
        "MODPO, arXiv 2310.03708; the margin model has the same beta",
        &[
            ("recipe", "modpo"),
            ("loss_type", "modpo"),
            ("beta", "0.1"),
            ("w0", "0.5"),
            ("preference", "better"),
        ],
    ),
    SACPO,
    P_SACPO,
    preset(
        "mocan",
        "MoCAN: reward and cost models, the multiplier of the safety constraint from samples of the reference, pairs relabelled by both, DPO on them.",
        "CAN, arXiv 2405.19544; the scoring models as in Safe RLHF, arXiv 2310.12773; level and sample numbers are bso's",
        &[
            ("recipe", "mocan"),
            ("loss_type", "dpo"),
            ("beta", "0.1"),
            ("preference", "better"),
            ("safety_level", "0"),
            ("dual_prompts", "256"),
            ("dual_samples", "8"),
            ("dual_max_new_tokens", "256"),
            ("score_learning_rate", "2e-5"),
            ("score_num_train_epochs", "2"),
        ],
    ),
    preset(
        "pecan",
        "PeCAN: a helpful and a safe policy by DPO, the multiplier of the safety constraint from their log-ratios, pairs relabelled by both, DPO on them.",
        "CAN, arXiv 2405.19544; level and sample numbers are bso's",
        &[
            ("recipe", "pecan"),
            ("loss_type", "dpo"),
            ("beta", "0.1"),
            ("preference", "better"),
            ("safety_level", "0"),
            ("dual_prompts", "256"),
            ("dual_samples", "8"),
            ("dual_max_new_tokens", "256"),
        ],
    ),
    preset(
        "kto",
        "KTO on unpaired rows (prompt, completion, label).",
        "KTO, arXiv 2402.01306; TRL KTOConfig",
        &[("loss_type", "kto"), ("beta", "0.1"), ("desirable_weight", "1"), ("undesirable_weight", "1")],
    ),
    preset(
        "reward",
        "A reward model: a scalar head that scores the more helpful response higher.",
        "Safe RLHF, arXiv 2310.12773, its code's run scripts",
        &[
            ("stage", "reward"),
            ("preference", "better"),
            ("regularization", "0.001"),
            ("num_train_epochs", "2"),
            ("learning_rate", "2e-5"),
            ("max_length", "512"),
        ],
    ),
    preset(
        "cost",
        "A cost model: a scalar head that scores the more harmful response higher, unsafe ones above 0 and safe ones below.",
        "Safe RLHF, arXiv 2310.12773, its code's run scripts",
        &[
            ("stage", "cost"),
            ("preference", "safer"),
            ("regularization", "0.001"),
            ("num_train_epochs", "2"),
            ("learning_rate", "2e-5"),
            ("max_length", "512"),
        ],
    ),
    PPO_LAG,
    SAFE_RLHF,
];

const PPO_LAG: Preset = preset(
    "ppo-lag",
    "Safe RLHF's last stage: PPO on the model's own samples, scored by a reward and a cost model, with a multiplier that holds the mean cost to a threshold.",
    "Safe RLHF, arXiv 2310.12773, its code's run scripts",
    &[
        ("stage", "ppo_lag"),
        ("num_train_epochs", "1"),
        ("per_device_train_batch_size", "16"),
        ("learning_rate", "1e-5"),
        ("lr_scheduler_type", "cosine"),
        ("warmup_ratio", "0.03"),
        ("weight_decay", "0.01"),
        ("adam_beta2", "0.95"),
        ("max_length", "512"),
        ("eval_split", "0"),
    ],
);

const SAFE_RLHF: Preset = Preset {
    name: "safe-rlhf",
    doc: "Safe RLHF: a reward model, a cost model, then PPO-Lagrangian with both.",
    source: "Safe RLHF, arXiv 2310.12773, its code's run scripts",
    base: Some(&PPO_LAG),
    own: &[("recipe", "safe-rlhf")],
};

const SACPO: Preset = preset(
    "sacpo",
    "SACPO: DPO on helpfulness, then DPO (or KTO) on safety, starting from and referring to the first stage's result.",
    "SACPO, arXiv 2404.11049",
    &[
        ("recipe", "sacpo"),
        ("loss_type", "dpo"),
        ("beta", "0.1"),
        ("preference", "better"),
        ("safety_loss_type", "dpo"),
        ("safety_beta", "0.1"),
        ("num_train_epochs", "3"),
        ("learning_rate", "2e-5"),
        ("warmup_ratio", "0.03"),
    ],
);

const P_SACPO: Preset = Preset {
    name: "p-sacpo",
    doc: "P-SACPO: the weights of SACPO's two stages averaged.",
    source: "SACPO, arXiv 2404.11049",
    base: Some(&SACPO),
    own: &[("recipe", "p-sacpo"), ("safety_beta", "0.01"), ("interpolation", "0.5")],
};

const PAPER: Preset = preset(
    "paper",
    "The objective of BSO's published runs, with the schedule left to you.",
    "BSO, arXiv 2605.12339 (Qwen2.5-0.5B)",
    &[
        ("loss_type", "bso"),
        ("generator", "sba"),
        ("generator_params", "0.2,4"),
        ("safety_penalty", "30"),
        ("beta", "0.1"),
        ("log_ratio_clamp", "-30,30"),
        ("log_ratio_tail", "clamp"),
        ("preference", "better"),
        ("safety_transform", "swap_drop"),
    ],
);

const PAPER_QWEN: Preset = Preset {
    name: "paper-qwen0.5b",
    doc: "BSO's published run of Qwen2.5-0.5B-Instruct on PKU-SafeRLHF-30K. (Its reference ran in f16; here it runs in f32.)",
    source: "BSO, arXiv 2605.12339",
    base: Some(&PAPER),
    own: &[
        ("eval_split", "0"),
        ("chat_template", "auto"),
        ("max_length", "2048"),
        ("truncation_mode", "drop"),
        ("num_train_epochs", "3"),
        ("per_device_train_batch_size", "8"),
        ("gradient_accumulation_steps", "2"),
        ("learning_rate", "1e-6"),
        ("lr_scheduler_type", "cosine"),
        ("warmup_ratio", "0.05"),
        ("optim", "rmsprop"),
        ("weight_decay", "0"),
        ("max_grad_norm", "10"),
        ("seed", "0"),
    ],
};

const PAPER_LLAMA: Preset = Preset {
    name: "paper-llama3b",
    doc: "BSO's published run of Llama-3.2-3B-Instruct on PKU-SafeRLHF-30K. (Its reference ran in f16; here it runs in f32.)",
    source: "BSO, arXiv 2605.12339",
    base: Some(&PAPER_QWEN),
    own: &[("generator_params", "0.3,4"), ("learning_rate", "7e-7")],
};

/// Other names for presets.
const ALSO: &[(&str, &str)] = &[("dpo", "dpo-helpful"), ("bso-paper", "paper")];

/// Names compare without regard to case, hyphens and underscores.
fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace('_', "-")
}

/// The preset called `name`; `kind` ("preset" or "method") is for the message.
///
/// # Errors
/// [`ConfigError::UnknownName`] with a suggestion.
pub fn find(name: &str, kind: &'static str) -> Result<&'static Preset, ConfigError> {
    let wanted = plain(name);
    let wanted = ALSO.iter().find(|(also, _)| *also == wanted).map_or(wanted, |(_, preset)| plain(preset));
    if let Some(preset) = PRESETS.iter().find(|preset| plain(preset.name) == wanted) {
        return Ok(preset);
    }
    let suggestion = did_you_mean(name, PRESETS.iter().map(|preset| preset.name));
    let known = PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    Err(ConfigError::UnknownName { kind, name: name.to_owned(), suggestion, known })
}
