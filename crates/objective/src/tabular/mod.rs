//! Tabular worlds: one prompt, a handful of responses, everything known. Minimising a loss's exact population risk
//! over all policies and measuring the distance to the known optimum is the strongest test a loss can get.

mod minimise;
mod population;
mod springs;
mod verify;
mod world;

pub use minimise::Minimum;
pub use population::Population;
pub use verify::{Verification, VerificationLine, VerifyOptions, verify};
pub use world::{World, WorldError, WorldSpec, total_variation};
