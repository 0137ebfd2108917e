//! Text to imitate: `messages` (the last assistant turn is scored), or `prompt` with `response` or `completion`.

use super::conversational::split_last;
use super::fields::{answer, messages, prompt};
use super::{Fields, Refusal};
use crate::origin::Origin;
use crate::pair::SftExample;

pub(super) fn example(row: &Fields, origin: &Origin) -> Result<SftExample, Refusal> {
    let (prompt, response) = if row.contains_key("messages") {
        split_last(messages(row, "messages")?)?
    } else {
        let column = if row.contains_key("response") { "response" } else { "completion" };
        (prompt(row)?, answer(row, column)?)
    };
    Ok(SftExample { prompt, response, origin: origin.clone() })
}
