//! The closed sets of the configuration, each member with the name it has in files. Sets that another crate
//! owns only get their names here.

use crate::schedule::Decay;
use bso_data::{Preference, SafetyTransform, Schema, TruncationMode};
use bso_model::ScoreLayout;
use bso_objective::Tail;
use std::fmt;

/// A set of named alternatives.
pub trait ClosedSet: Copy + 'static {
    /// Every member, in the order of the documentation.
    const ALL: &'static [Self];
    /// The name in files and on the command line.
    fn name(self) -> &'static str;
    /// The member called `name`.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|member| member.name() == name)
    }
}

macro_rules! closed_set {
    ($(#[$about:meta])* $set:ident { $($(#[$member:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $set { $($(#[$member])* $variant),+ }

        impl ClosedSet for $set {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

closed_set! {
    /// What is trained.
    Stage {
        /// Next-token likelihood of the responses.
        Sft = "sft",
        /// A loss on preference pairs (or unpaired judgements).
        Preference = "preference",
        /// A scalar head that scores the better response higher.
        Reward = "reward",
        /// A scalar head that scores the more harmful response higher, and unsafe ones above 0.
        Cost = "cost",
        /// A language model on its own samples, scored by a reward and a cost model: PPO-Lagrangian.
        PpoLag = "ppo_lag",
    }
}

closed_set! {
    /// A method of several stages.
    Recipe {
        /// DPO on helpfulness, then on safety from its result.
        Sacpo = "sacpo",
        /// SACPO, its result averaged with that of its first stage.
        PSacpo = "p-sacpo",
        /// A safer model by DPO, then MODPO with its log-ratios as margins.
        Modpo = "modpo",
        /// DPO on pairs relabelled by a reward and a cost model.
        Mocan = "mocan",
        /// DPO on pairs relabelled by a helpful and a safe policy.
        Pecan = "pecan",
        /// A reward and a cost model, then PPO-Lagrangian with both.
        SafeRlhf = "safe-rlhf",
    }
}

closed_set! {
    /// The levels of numbers in four bits.
    QuantType {
        /// NormalFloat.
        Nf4 = "nf4",
    }
}

closed_set! {
    /// The loss, by the name it has in `loss_type`.
    LossType {
        /// Negative log-likelihood: `stage: sft`.
        Nll = "nll",
        /// Density-ratio matching with a safety penalty.
        Bso = "bso",
        /// Direct preference optimisation.
        Dpo = "dpo",
        /// DPO with label smoothing.
        Cdpo = "cdpo",
        /// IPO on summed log-probs, the paper's equation.
        Ipo = "ipo",
        /// IPO on per-token means.
        IpoMean = "ipo_mean",
        /// The hinge on the margin.
        Hinge = "hinge",
        /// DPO with the safety offset delta.
        SafeDpo = "safedpo",
        /// Bi-factorial preference optimisation.
        Bfpo = "bfpo",
        /// DPO with a margin model.
        Modpo = "modpo",
        /// Kahneman-Tversky optimisation on unpaired data.
        Kto = "kto",
        /// A reward model's: `stage: reward`.
        Reward = "reward",
        /// A cost model's: `stage: cost`.
        Cost = "cost",
        /// PPO-Lagrangian's: `stage: ppo_lag`.
        PpoLag = "ppo_lag",
    }
}

closed_set! {
    /// The number format of the weights.
    DTypeChoice {
        /// 32-bit floats.
        F32 = "f32",
        /// Products of bfloat16, with sums, weights and optimiser in 32 bits.
        Bf16 = "bf16",
    }
}

closed_set! {
    /// The optimiser.
    Optim {
        /// Adam with decoupled weight decay.
        AdamW = "adamw",
        /// RMSprop, PyTorch's: alpha 0.99, epsilon 1e-8, no momentum.
        RmsProp = "rmsprop",
        /// Plain gradient descent.
        Sgd = "sgd",
    }
}

closed_set! {
    /// When something happens that happens now and then.
    Strategy {
        /// Never.
        No = "no",
        /// Every so many optimiser steps.
        Steps = "steps",
        /// At the end of every epoch.
        Epoch = "epoch",
    }
}

closed_set! {
    /// When checkpoints are written.
    SaveStrategy {
        /// Never.
        No = "no",
        /// Every so many optimiser steps.
        Steps = "steps",
        /// At the end of every epoch.
        Epoch = "epoch",
        /// Whenever an evaluation is the best so far.
        Best = "best",
    }
}

closed_set! {
    /// Who receives the metrics besides metrics.jsonl.
    Tracker {
        /// Nobody.
        None = "none",
        /// TensorBoard, as event files.
        TensorBoard = "tensorboard",
        /// MLflow, as its file store.
        MlFlow = "mlflow",
    }
}

macro_rules! names_of {
    ($set:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl ClosedSet for $set {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

names_of! { Preference { Better = "better", Safer = "safer", SafeBetter = "safe_better" } }
names_of! { SafetyTransform { None = "none", SwapDrop = "swap_drop", Drop = "drop" } }
names_of! { Schema {
    PkuSafeRlhf = "pku_safe_rlhf", Flat = "flat", Conversational = "conversational",
    Hh = "hh", Unpaired = "unpaired", Sft = "sft",
} }
names_of! { TruncationMode { KeepStart = "keep_start", KeepEnd = "keep_end", Drop = "drop", Raise = "raise" } }
names_of! { ScoreLayout { SequenceClassification = "transformers", SafeRlhf = "safe_rlhf" } }
names_of! { Tail { Clamp = "clamp", Linear = "linear" } }
names_of! { Decay { Linear = "linear", Cosine = "cosine", Constant = "constant" } }
