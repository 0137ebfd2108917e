//! The files of a tokenizer of whole words, written here rather than trained.

use super::files::TokenizerFiles;
use serde_json::{Map, Value, json};

const SPECIALS: [&str; 6] = ["<pad>", "<bos>", "<user>", "<assistant>", "<end>", "<unk>"];
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ ('<assistant>' if message['role'] == 'assistant' else '<user>') + message['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

pub(super) fn files(words: &[&str]) -> Result<TokenizerFiles, String> {
    let mut vocabulary: Map<String, Value> = Map::new();
    for (id, word) in SPECIALS.iter().chain(words).enumerate() {
        if word.is_empty() || word.contains(char::is_whitespace) {
            return Err(format!("the word {word:?} is empty or contains a blank"));
        }
        if vocabulary.insert((*word).to_owned(), json!(id)).is_some() {
            return Err(format!("the word {word:?} stands twice, or is a special token"));
        }
    }
    let added: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    // Without a decoder the library joins tokens with single blanks, which is what undoes the split.
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<end>",
        "pad_token": "<pad>", "unk_token": "<unk>", "clean_up_tokenization_spaces": false,
        "model_max_length": 1_000_000, "chat_template": TEMPLATE,
    });
    Ok(TokenizerFiles::in_memory(format!("{tokenizer:#}\n").into_bytes(), &config))
}
