//! What the crate promises, against PyTorch's numbers, against itself and against bad input.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test panics, and the largest differences are shown also on success"
)]

mod adapter;
mod bf16;
mod config;
mod equalities;
mod export;
mod fixture;
mod generation;
mod optimiser;
mod parity;
mod paths;
mod quantised;
mod saving;
mod scores;
mod stories;
mod weights;
