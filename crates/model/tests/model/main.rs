//! What the crate promises, against PyTorch's numbers, against itself and against bad input.

mod config;
mod equalities;
mod fixture;
mod generation;
mod optimiser;
mod parity;
mod saving;
mod stories;
mod weights;
