//! GPUs: finding the driver and NVIDIA's libraries at run time, compiling the kernels for the chip that is there,
//! memory on it, and each operation's launches. Nothing here needs a CUDA toolkit to be built, and nothing is claimed
//! of a GPU before it was opened.

mod blas;
mod cache;
mod device;
mod driver;
mod error;
mod kernels;
mod library;
mod memory;
mod nvrtc;
pub mod operation;
mod view;

pub use blas::Blas;
pub use cache::{CACHE_VARIABLE, KernelCache, Key};
pub use device::Gpu;
pub use driver::{Chip, Driver, OLDEST, version_text};
pub use error::CudaError;
pub use kernels::{KernelFile, every_file};
pub use library::{FOLDERS_VARIABLE, Found, Wanted, wheel_folders};
pub use memory::{Buffer, Pinned};
pub use nvrtc::{Nvrtc, OPTIONS};
pub use view::{Argument, Call, Launcher, Number, Product, View};
