//! Preference data: files of rows -> checked pairs -> token sequences with a known prompt/response boundary.
//! Also tokenizers, chat templates and what `bso data check` shows. No tensors, no devices, no printing.
//!
//! The way through: [`read_rows`] -> [`Schema`] -> [`PreferencePair`] or [`Rejection`] -> [`SafetyTransform`]
//! -> [`tokenise_pairs`] with a [`ChatTokenizer`]. Every row that does not arrive is counted in the [`Ledger`].

pub mod check;
mod error;
mod ledger;
mod load;
mod message;
mod mixture;
mod origin;
mod pair;
mod preference;
mod read;
mod record;
mod rejection;
mod safety_transform;
mod schema;
mod split;
mod template;
mod tokenise;
mod tokenizer;
mod truncation;

pub use error::DataError;
pub use ledger::{Count, Ledger, SourceCount};
pub use load::{LoadOptions, Loaded, Needs, load_pairs, load_sft, load_unpaired};
pub use message::Message;
pub use mixture::{Part, mix};
pub use origin::Origin;
pub use pair::{PreferencePair, Prompted, SftExample, UnpairedExample};
pub use preference::Preference;
pub use read::{RowIter, files_of_splits, read_rows, read_split};
pub use record::PreferenceRecord;
pub use rejection::Rejection;
pub use safety_transform::{SafetyTransform, Transformed};
pub use schema::{Detected, Schema};
pub use split::split_by_prompt;
pub use template::ChatTemplate;
pub use tokenise::{
    TokenisedPair, TokenisedSequence, TokenisedSft, TokenisedUnpaired, tokenise_pairs, tokenise_sft,
    tokenise_unpaired,
};
pub use tokenizer::{ChatTokenizer, EncodedPair, TemplateChoice};
pub use truncation::{Truncation, TruncationMode};
