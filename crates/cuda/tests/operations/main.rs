//! Every operation's forward and backward, launched as on a GPU, against the CPU engine's: one test body for the
//! emulation of the kernels on the CPU (in two orders of threads) and for the GPU that is here, if one is.

mod activation;
mod attention;
mod elementwise;
mod emulator;
mod log_prob;
mod machine;
mod norm;
mod optimiser;
mod product;
mod rotary;
mod rows;
