//! The methods that the demo compares: each is a config that `bso train` would take as well.

/// One method of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Folder and table name.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// The lines of its config that differ from the others'.
    pub settings: &'static str,
}

/// Shared by all methods of the comparison, so that only the objective differs.
pub const BETA: f64 = 0.5;
/// C of the BSO methods and of the optimum that distances are measured to, in reward units.
pub const SAFETY_PENALTY: f64 = 10.0;

/// In the order of the table.
pub const METHODS: [Method; 6] = [
    Method {
        name: "dpo-helpful",
        about: "DPO on the more helpful response: blind to safety",
        settings: "loss_type: dpo\npreference: better\n",
    },
    Method {
        name: "dpo-harmless",
        about: "DPO on the safer response: blind to helpfulness where it matters",
        settings: "loss_type: dpo\npreference: safer\n",
    },
    Method {
        name: "safedpo",
        about: "DPO with the safety offset on swapped and dropped pairs",
        settings: "loss_type: safedpo\npreference: better\nsafety_transform: swap_drop\ndelta: 10\n",
    },
    Method {
        name: "bso-logistic",
        about: "density-ratio matching, logistic generator, pairs as they are",
        settings: "loss_type: bso\npreference: better\nsafety_transform: none\ngenerator: logistic\n\
                   safety_penalty: 10\nlog_ratio_clamp: none\n",
    },
    Method {
        name: "bso-sba",
        about: "density-ratio matching, scaled power generator (0.2, 4), swapped and dropped pairs, clamped",
        settings: "loss_type: bso\npreference: better\nsafety_transform: swap_drop\ngenerator: sba\n\
                   generator_params: [0.2, 4]\nsafety_penalty: 10\nlog_ratio_clamp: [-30, 30]\n",
    },
    Method {
        name: "bso-phi",
        about: "density-ratio matching, phi(1.5) generator, pairs as they are",
        settings: "loss_type: bso\npreference: better\nsafety_transform: none\ngenerator: phi_mu\n\
                   generator_params: [1.5]\nsafety_penalty: 10\nlog_ratio_clamp: none\n",
    },
];

/// The config of supervised training.
pub fn sft_config(sizes: &super::Sizes, seed: u64) -> String {
    format!(
        "# Supervised training of the small decoder on SafeWorld's text.\n\
         stage: sft\nmodel_name_or_path: base\ndtype: f32\ndataset_name: data/sft.jsonl\nmax_length: 128\n\
         eval_split: 0.0\nper_device_train_batch_size: 16\nnum_train_epochs: {}\nlearning_rate: 3.0e-3\n\
         lr_scheduler_type: cosine\nwarmup_ratio: 0.05\nweight_decay: 0.01\nmax_grad_norm: 1.0\nlogging_steps: 5\n\
         save_strategy: \"no\"\nreport_to: none\nseed: {seed}\noutput_dir: sft\noverwrite_output_dir: true\n",
        sizes.sft_epochs
    )
}

/// The config of one method.
pub fn preference_config(method: &Method, sizes: &super::Sizes, seed: u64) -> String {
    format!(
        "# {}.\nstage: preference\nmodel_name_or_path: sft\ndtype: f32\ndataset_name: data/pairs.jsonl\nmax_length: 128\n\
         eval_split: 0.05\neval_strategy: epoch\n{}beta: {BETA}\nper_device_train_batch_size: 32\nnum_train_epochs: {}\n\
         learning_rate: {:e}\nlr_scheduler_type: cosine\nwarmup_ratio: 0.05\nmax_grad_norm: 1.0\nlogging_steps: 5\n\
         save_strategy: \"no\"\nreport_to: none\nseed: {seed}\noutput_dir: {}\noverwrite_output_dir: true\n",
        method.about, method.settings, sizes.preference_epochs, sizes.learning_rate, method.name
    )
}
