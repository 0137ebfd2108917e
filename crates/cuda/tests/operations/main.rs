//! Every operation's forward and backward, launched as on a GPU, against the CPU engine's: one test body for the
//! emulation of the kernels on the CPU (in two orders of threads) and for the GPU that is here, if one is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped, and how near a success was, is shown")]

mod activation;
mod adapter;
mod attention;
mod cached_attention;
mod elementwise;
mod emulator;
mod log_prob;
mod machine;
mod norm;
mod optimiser;
mod product;
mod quantised;
mod rotary;
mod rows;
mod score;
