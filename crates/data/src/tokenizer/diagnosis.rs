//! What is odd about a template beside its tokenizer, seen in a sample conversation and explained before it costs a run.

use super::ChatTokenizer;
use crate::message::Message;

/// The sample's words: nothing that a template would write.
const SAMPLE: [&str; 2] = ["ask", "tell"];

/// One sentence for every oddity, with the remedy; empty where all is well.
pub(super) fn oddities(tokenizer: &ChatTokenizer) -> Vec<String> {
    let Some(template) = &tokenizer.template else { return Vec::new() };
    let conversation = [Message::user(SAMPLE[0]), Message::assistant(SAMPLE[1])];
    // A template that refuses this conversation says so when it is used on data, with the row.
    let Ok(text) = template.render(&conversation, false) else { return Vec::new() };
    let name = template.name();
    let mut found = Vec::new();
    let unknown: Vec<&str> =
        marks(&text).into_iter().filter(|mark| tokenizer.token_id(mark).is_none()).collect();
    if !unknown.is_empty() {
        found.push(format!(
            "chat template {name} writes {}, which the tokenizer does not know as a token and splits into pieces: the template \
             belongs to another tokenizer; choose another chat_template, or a tokenizer with these tokens",
            unknown.join(", ")
        ));
    }
    let prompt = tokenizer.encode_prompt(&conversation[..1]).unwrap_or_default();
    if tokenizer.doubles_bos(&prompt) {
        found.push(format!(
            "chat template {name} writes the beginning-of-sequence token twice; remove one from the template"
        ));
    }
    let after = text.rsplit(SAMPLE[1]).next().unwrap_or_default();
    let ends = tokenizer
        .library
        .encode(after, false)
        .is_ok_and(|e| e.ids.iter().any(|id| tokenizer.is_special(*id)));
    if !ends {
        found.push(format!(
            "chat template {name} ends the assistant's turn with no special token; {} is appended and scored, so that the model \
             learns to stop; other programs that use this template may not stop there",
            tokenizer.eos.0
        ));
    }
    found
}

/// Texts like `<|im_start|>`, `</s>` and `<start_of_turn>`, each once.
fn marks(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let from = &rest[at..];
        let end = from.find('>').map_or(from.len(), |end| end + 1);
        let inner = from[1..end].trim_end_matches('>').trim_start_matches('/');
        let inner = inner.strip_prefix('|').and_then(|i| i.strip_suffix('|')).unwrap_or(inner);
        let word = !inner.is_empty()
            && inner.len() <= 40
            && inner.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if word && from[..end].ends_with('>') && !found.contains(&&from[..end]) {
            found.push(&from[..end]);
        }
        rest = &from[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_other_text() {
        let text = "<s><|im_start|>user\na < b > c <b c> <>[INST]</s><|im_start|>x</s";
        assert_eq!(marks(text), ["<s>", "<|im_start|>", "</s>"]);
    }
}
