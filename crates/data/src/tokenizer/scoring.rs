//! THE prompt/response boundary: this file alone decides which tokens are scored.
//!
//! With a template, the text is rendered once for the prompt with the assistant's header and once with the response.
//! Where the tokens of the first are the beginning of the second, the boundary is their number. Where a token straddles
//! the boundary, the text behind the prompt is encoded by itself, because generation also continues from the prompt's
//! own tokens. The end of the content is the length of what the template writes behind ANY content, found by rendering
//! two other contents; the response ends with the first special token from there on, or with an added EOS.
//! No text is ever searched for: a response may contain the prompt, the header or the end-of-turn token.

use super::ChatTokenizer;
use super::library::Encoded;
use crate::error::DataError;
use crate::message::Message;
use crate::tokenise::TokenisedSequence;

/// Two responses to one prompt, each with its end-of-turn token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPair {
    /// The prompt and the first response.
    pub first: TokenisedSequence,
    /// The prompt and the second response.
    pub second: TokenisedSequence,
}

/// A prompt as text and tokens.
pub(super) struct Prompt {
    pub(super) ids: Vec<u32>,
    text: String,
}

/// Contents that share neither beginning nor end.
const PROBES: [&str; 2] = ["a", "b"];

pub(super) fn prompt(tokenizer: &ChatTokenizer, messages: &[Message]) -> Result<Prompt, DataError> {
    let refuse = |problem| tokenizer.refusal(problem);
    let Some(template) = &tokenizer.template else {
        let text = plain_prompt(messages);
        let mut ids: Vec<u32> = tokenizer.bos.iter().filter(|_| tokenizer.adds_bos).map(|b| b.1).collect();
        ids.extend(tokenizer.library.encode(&text, false).map_err(refuse)?.ids);
        return Ok(Prompt { ids, text });
    };
    let text = template.render(messages, true)?;
    // What a template writes is whole: adding the tokenizer's own specials would double BOS.
    let ids = tokenizer.library.encode(&text, false).map_err(refuse)?.ids;
    Ok(Prompt { ids, text })
}

pub(super) fn sequence(
    tokenizer: &ChatTokenizer,
    messages: &[Message],
    response: &str,
) -> Result<TokenisedSequence, DataError> {
    let prompt = prompt(tokenizer, messages)?;
    let tail = tail_length(tokenizer, messages)?;
    respond(tokenizer, messages, &prompt, tail, response)
}

pub(super) fn pair(
    tokenizer: &ChatTokenizer,
    messages: &[Message],
    responses: [&str; 2],
) -> Result<EncodedPair, DataError> {
    let prompt = prompt(tokenizer, messages)?;
    let tail = tail_length(tokenizer, messages)?;
    Ok(EncodedPair {
        first: respond(tokenizer, messages, &prompt, tail, responses[0])?,
        second: respond(tokenizer, messages, &prompt, tail, responses[1])?,
    })
}

/// The tokens of one response behind a prompt.
fn respond(
    tokenizer: &ChatTokenizer,
    messages: &[Message],
    prompt: &Prompt,
    tail: usize,
    response: &str,
) -> Result<TokenisedSequence, DataError> {
    let refuse = |problem| tokenizer.refusal(problem);
    let Some(template) = &tokenizer.template else {
        let mut ids = tokenizer.library.encode(response, false).map_err(refuse)?.ids;
        ids.push(tokenizer.eos.1);
        // Nothing predicts a first token: without a prompt and without BOS it is given rather than scored.
        if prompt.ids.is_empty() && ids.len() > 1 {
            let response = ids.split_off(1);
            return Ok(TokenisedSequence { prompt: ids, response });
        }
        return Ok(TokenisedSequence { prompt: prompt.ids.clone(), response: ids });
    };
    let text = template.render(&with_answer(messages, response), false)?;
    let content_end = text.len().saturating_sub(tail);
    let full = tokenizer.library.encode(&text, false).map_err(refuse)?;
    let common = full.ids.iter().zip(&prompt.ids).take_while(|(a, b)| a == b).count();
    // Nothing is generated, so that the text's own tokens stand; the boundary only says what truncation may cut.
    if full.ids.starts_with(&prompt.ids) || tokenizer.whole_turns {
        let scored = end_of_turn(tokenizer, &full, common, content_end);
        return Ok(TokenisedSequence { prompt: full.ids[..common].to_vec(), response: scored });
    }
    if let Some(rest) = text.strip_prefix(prompt.text.as_str()) {
        let rest_end = content_end.saturating_sub(prompt.text.len());
        let rest = tokenizer.library.encode(rest, false).map_err(refuse)?;
        let scored = end_of_turn(tokenizer, &rest, 0, rest_end);
        return Ok(TokenisedSequence { prompt: prompt.ids.clone(), response: scored });
    }
    // The header for generation says more than a finished turn (for example an opened thinking block): the sequence is
    // that of the finished turn, and its prompt ends where the two part.
    let before = template.render(messages, false)?;
    let least = tokenizer.library.encode(&before, false).map_err(refuse)?.ids.len();
    if common < least {
        return Err(DataError::Template {
            template: template.name().to_owned(),
            problem: "it writes the prompt differently once a response follows, so the boundary is undefined; use a template whose conversation only grows, or none".to_owned(),
        });
    }
    let scored = end_of_turn(tokenizer, &full, common, content_end);
    Ok(TokenisedSequence { prompt: full.ids[..common].to_vec(), response: scored })
}

/// The tokens from `start` to the first special token that begins at or behind `content_end` (bytes), included;
/// all of them and EOS where there is none.
fn end_of_turn(tokenizer: &ChatTokenizer, text: &Encoded, start: usize, content_end: usize) -> Vec<u32> {
    match end(tokenizer, text, start, content_end) {
        Some(end) => text.ids[start..=end].to_vec(),
        None => {
            let mut ids = text.ids[start..].to_vec();
            ids.push(tokenizer.eos.1);
            ids
        }
    }
}

fn end(tokenizer: &ChatTokenizer, text: &Encoded, start: usize, content_end: usize) -> Option<usize> {
    (start..text.ids.len()).find(|&i| tokenizer.is_special(text.ids[i]) && text.offsets[i].0 >= content_end)
}

/// The tokens that the template writes behind the end of an answer's turn, whatever the answer is.
pub(super) fn behind_turn(tokenizer: &ChatTokenizer, messages: &[Message]) -> Result<Vec<u32>, DataError> {
    let Some(template) = &tokenizer.template else { return Ok(Vec::new()) };
    let tail = tail_length(tokenizer, messages)?;
    let text = template.render(&with_answer(messages, PROBES[0]), false)?;
    let full = tokenizer.library.encode(&text, false).map_err(|problem| tokenizer.refusal(problem))?;
    let end = end(tokenizer, &full, 0, text.len().saturating_sub(tail));
    Ok(end.map(|end| full.ids[end + 1..].to_vec()).unwrap_or_default())
}

/// Bytes that the template writes behind the last content, whatever it is.
fn tail_length(tokenizer: &ChatTokenizer, messages: &[Message]) -> Result<usize, DataError> {
    let Some(template) = &tokenizer.template else { return Ok(0) };
    let one = template.render(&with_answer(messages, PROBES[0]), false)?;
    let two = template.render(&with_answer(messages, PROBES[1]), false)?;
    Ok(common_suffix(&one, &two))
}

/// Positions of the prompt's tokens that carry the text of messages. A message's text lies where two renderings that
/// differ only in this message part and meet again.
pub(super) fn cuttable(tokenizer: &ChatTokenizer, messages: &[Message]) -> Result<Vec<usize>, DataError> {
    let whole = prompt(tokenizer, messages)?;
    let Some(template) = &tokenizer.template else {
        let bos = usize::from(tokenizer.adds_bos);
        // The last token stays: a sequence needs something before its first scored token.
        return Ok((bos..whole.ids.len().saturating_sub(1))
            .filter(|&i| !tokenizer.is_special(whole.ids[i]))
            .collect());
    };
    let mut spans = Vec::with_capacity(messages.len());
    for i in 0..messages.len() {
        let rendered = PROBES.map(|probe| {
            let mut changed = messages.to_vec();
            changed[i].content = probe.to_owned();
            template.render(&changed, true)
        });
        let [Ok(one), Ok(two)] = rendered else { continue };
        let (start, tail) = (common_prefix(&one, &two), common_suffix(&one, &two));
        spans.push((start, whole.text.len().saturating_sub(tail)));
    }
    let encoded =
        tokenizer.library.encode(&whole.text, false).map_err(|problem| tokenizer.refusal(problem))?;
    let inside = |&(from, to): &(usize, usize)| {
        spans.iter().any(|&(start, end)| from >= start && to <= end && to > from)
    };
    Ok((0..encoded.ids.len())
        .filter(|&i| !tokenizer.is_special(encoded.ids[i]) && inside(&encoded.offsets[i]))
        .collect())
}

fn with_answer(messages: &[Message], response: &str) -> Vec<Message> {
    let mut all = messages.to_vec();
    all.push(Message::assistant(response));
    all
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count()
}

fn common_suffix(a: &str, b: &str) -> usize {
    a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count()
}

/// A conversation without a template: one turn stands as it is; several are written as dialogue, in the manner of HH.
pub(crate) fn plain_prompt(messages: &[Message]) -> String {
    if let [only] = messages {
        return only.content.clone();
    }
    let mut text = String::new();
    for message in messages {
        let speaker = match message.role.as_str() {
            "assistant" => "\n\nAssistant: ",
            "system" => "",
            _ => "\n\nHuman: ",
        };
        text.push_str(speaker);
        text.push_str(&message.content);
    }
    if !messages.is_empty() {
        text.push_str("\n\nAssistant:");
    }
    text
}
