//! Four log-probs and two safety labels in, a loss and its derivatives out: the objective of safety alignment as
//! density-ratio matching (BSO, arXiv 2605.12339), its comparators, and the tabular worlds that verify it.
//!
//! Nothing but numbers: no tensor, no token, no file. Everything is f64; inputs are taken as exact, evaluated in
//! double-double arithmetic and rounded once. A result that f64 cannot hold is an error, never NaN or infinity.

mod bso;
mod comparator;
mod constrained_dual;
mod error;
mod generator;
mod loss;
mod pair;
mod ppo;
mod precise;
pub mod row;
mod score_loss;
pub mod tabular;
mod transform;
mod weights;

pub use bso::{BsoLoss, BsoSettings, Tail};
pub use comparator::kto::{KtoBatch, KtoLoss};
pub use constrained_dual::{DualMinimum, ScoredSample, dual_at, multiplier, relabelled_probability};
pub use error::ObjectiveError;
pub use generator::{Generator, GeneratorParam, Kernel};
pub use loss::PreferenceLoss;
pub use pair::{PairInputs, PairLogProbs, PairLoss, SafetyLabels};
pub use ppo::{
    Episode, Estimates, Multiplier, MultiplierSettings, Ppo, PpoSettings, Targets, TokenLoss,
    mixed_advantages,
};
pub use score_loss::{PairScoreLoss, PairScores, ScoreLoss};
pub use transform::{SafetyTransform, Transformed};
pub use weights::{SequenceWeights, clip_factor};
