//! What `bso data check` shows: the rows of a data set counted and compared, in one pass and in bounded memory
//! (hashes and counts of lengths are kept, texts are not). Computes only; `cli` prints.

mod contradictions;
mod lengths;
mod preview;
mod report;

pub use contradictions::Contradictions;
pub use lengths::{Lengths, Spread};
pub use preview::{Piece, PreviewRow};
pub use report::{CheckOptions, CheckReport, Disagreement, Quadrants, TransformEffect, check};
