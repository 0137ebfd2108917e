//! Models and data sets by their names on a hub that speaks Hugging Face's paths: `org/name`, `org/name@revision`.
//! A local path always wins; what is fetched lies in the cache that `huggingface_hub` shares, file by file as it names them.
//!
//! The crate `hf-hub` was looked at: it is built on an asynchronous runtime and a transfer protocol of its own, several
//! hundred crates in all, and checks no checksums in its small form. What is needed here is two requests.

mod cache;
mod download;
mod error;
mod locate;
mod name;
mod repo;
mod settings;

pub use error::HubError;
pub use locate::{Hub, Selection, everything, locate};
pub use name::{Name, RepoKind};
pub use settings::Settings;
