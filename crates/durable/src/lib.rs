//! What several crates need of the machine: files that are whole or absent, fingerprints, seeds,
//! progress events and the user's wish to stop. Nothing here knows about models, data or losses.

mod files;
mod fingerprint;
mod interrupt;
mod progress;
mod seed;

pub use files::{AtomicDir, atomic_write, ensure_dir, write_json};
pub use fingerprint::{Fingerprint, fingerprint_bytes, fingerprint_file};
pub use interrupt::Interrupt;
pub use progress::{Event, Observer, Silent, Task};
pub use seed::Seed;
