//! A tokenizer as GGUF's metadata has it: tokens, their types, merges, special ids and the chat template, from
//! `tokenizer.json`. Byte-level BPE (Llama 3, Qwen 2, SmolLM, GPT-2) and BPE with byte fallback (Llama 2) are known there.

use crate::RecipeError;
use bso_data::{ChatTokenizer, TemplateChoice};
use bso_durable::{Event, Observer};
use bso_model::{GgufMetadata, GgufValue};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// `llama_token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The metadata of the tokenizer in `folder`, with a token for each of the `vocabulary` rows of the embedding.
///
/// # Errors
/// A tokenizer that cannot be read, or of a kind that GGUF does not know, by name.
pub fn tokenizer(
    folder: &Path,
    vocabulary: usize,
    observer: &dyn Observer,
) -> Result<GgufMetadata, RecipeError> {
    let chat = ChatTokenizer::load(folder, &TemplateChoice::Auto)?;
    let path = folder.join("tokenizer.json");
    let refuse = |problem: String| {
        RecipeError::input(format!(
            "{}: {problem}; GGUF holds byte-level BPE tokenizers and BPE with byte fallback",
            path.display()
        ))
    };
    let json: Value =
        serde_json::from_slice(&fs::read(&path)?).map_err(|e| refuse(format!("not JSON ({e})")))?;
    let model = &json["model"];
    // Files of old versions leave the type out; a vocabulary with merges is BPE.
    let kind = model["type"].as_str().unwrap_or(if model["merges"].is_array() { "BPE" } else { "none" });
    if kind != "BPE" {
        return Err(refuse(format!("a tokenizer of type {kind}")));
    }
    let byte_fallback = model["byte_fallback"].as_bool() == Some(true);
    if !byte_fallback && !mentions(&json, "ByteLevel") {
        return Err(refuse("a BPE tokenizer that is neither byte-level nor falls back to bytes".into()));
    }
    let tokens = Tokens::read(&json, &chat, vocabulary, byte_fallback).map_err(refuse)?;
    let merges = merges(model).map_err(refuse)?;

    let mut list = GgufMetadata::new();
    let mut put = |key: &str, value| list.push((format!("tokenizer.{key}"), value));
    put("ggml.model", GgufValue::Text(if byte_fallback { "llama" } else { "gpt2" }.into()));
    if byte_fallback {
        put("ggml.scores", GgufValue::F32s(scores(&tokens.texts, &merges)));
        put(
            "ggml.add_space_prefix",
            GgufValue::Bool(mentions(&json, "Prepend") || mentions(&json, "Metaspace")),
        );
    } else {
        let splitting = splitting(&json["pre_tokenizer"]);
        if splitting == "default" {
            observer.event(Event::Warning(
                "this tokenizer's way of splitting text is not one that GGUF names; \"default\" is written, and readers may \
                 split rare text otherwise"
                    .into(),
            ));
        }
        put("ggml.pre", GgufValue::Text(splitting.into()));
    }
    put("ggml.tokens", GgufValue::Texts(tokens.texts));
    put("ggml.token_type", GgufValue::I32s(tokens.types));
    if !byte_fallback {
        put("ggml.merges", GgufValue::Texts(merges.iter().map(|[a, b]| format!("{a} {b}")).collect()));
    }
    if let Some((_, bos)) = chat.bos() {
        put("ggml.bos_token_id", GgufValue::U32(bos));
    }
    // Readers stop at this one: with a template, the end of a turn.
    let eos = chat.eos().1;
    put("ggml.eos_token_id", GgufValue::U32(eos));
    if let Some(turn) = chat.end_of_turn_ids().into_iter().find(|id| *id != eos) {
        put("ggml.eot_token_id", GgufValue::U32(turn));
    }
    put("ggml.add_bos_token", GgufValue::Bool(chat.adds_bos()));
    if let Some(template) = chat.template() {
        put("chat_template", GgufValue::Text(template.source().to_owned()));
    }
    Ok(list)
}

/// The text and type of every id.
struct Tokens {
    texts: Vec<String>,
    types: Vec<i32>,
}

impl Tokens {
    fn read(
        json: &Value,
        chat: &ChatTokenizer,
        vocabulary: usize,
        byte_fallback: bool,
    ) -> Result<Self, String> {
        let mut texts: Vec<Option<(String, i32)>> = vec![None; vocabulary];
        let mut place = |id: Option<u64>, text: &str, kind: i32| {
            let place = id.and_then(|id| usize::try_from(id).ok()).and_then(|id| texts.get_mut(id));
            let place = place.ok_or_else(|| {
                format!("token {text:?} has no row among the {vocabulary} of the embedding")
            })?;
            *place = Some((text.to_owned(), kind));
            Ok::<(), String>(())
        };
        let entries = json["model"]["vocab"].as_object().ok_or("no model.vocab")?;
        let unknown = json["model"]["unk_token"].as_str();
        for (text, id) in entries {
            let is_byte = byte_fallback && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = match text {
                text if unknown == Some(text.as_str()) => UNKNOWN,
                _ if is_byte => BYTE,
                _ => NORMAL,
            };
            place(id.as_u64(), text, kind)?;
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let (id, text) = (token["id"].as_u64(), token["content"].as_str().unwrap_or_default());
            let special = token["special"].as_bool() == Some(true)
                || id.and_then(|id| u32::try_from(id).ok()).is_some_and(|id| chat.is_special(id));
            let kind = match special {
                _ if unknown == Some(text) => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            place(id, text, kind)?;
        }
        // Embeddings are padded to round sizes.
        let filled =
            texts.into_iter().enumerate().map(|(id, token)| token.unwrap_or((format!("[PAD{id}]"), UNUSED)));
        let (texts, types) = filled.unzip();
        Ok(Self { texts, types })
    }
}

/// Both spellings: "a b", and ["a", "b"].
fn merges(model: &Value) -> Result<Vec<[String; 2]>, String> {
    let list = model["merges"].as_array().ok_or("no model.merges")?;
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| [a.to_owned(), b.to_owned()]),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(a), Value::String(b)] => Some([a.clone(), b.clone()]),
            _ => None,
        },
        _ => None,
    };
    list.iter().map(|merge| pair(merge).ok_or_else(|| format!("the merge {merge} is not a pair"))).collect()
}

/// Sentencepiece joins the pair whose result scores highest: the earlier a merge, the higher.
fn scores(tokens: &[String], merges: &[[String; 2]]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (index, [a, b]) in merges.iter().enumerate() {
        rank.entry(format!("{a}{b}")).or_insert(index);
    }
    let score = |token: &String| rank.get(token).map_or(0.0, |index| -(*index as f32));
    tokens.iter().map(score).collect()
}

/// The name that GGUF's readers have for a way of splitting text before BPE.
fn splitting(pre_tokenizer: &Value) -> &'static str {
    let patterns = strings(pre_tokenizer, "Regex");
    let has = |part: &str| patterns.iter().any(|pattern| pattern.contains(part));
    if has(r"\p{N}{1,3}") && has("(?i:'s|'t|'re|'ve|'m|'ll|'d)") {
        "llama-bpe"
    } else if has(r"|\p{N}|") && has("(?i:'s|'t|'re|'ve|'m|'ll|'d)") {
        "qwen2"
    } else if !patterns.is_empty() {
        "default"
    } else if mentions(pre_tokenizer, "Digits") {
        "smollm"
    } else {
        "gpt-2"
    }
}

/// Whether some object in it has this `type`.
fn mentions(value: &Value, kind: &str) -> bool {
    match value {
        // The vocabulary is large and holds no objects.
        Value::Object(map) => {
            map.get("type").and_then(Value::as_str) == Some(kind)
                || map.iter().any(|(key, value)| key != "vocab" && mentions(value, kind))
        }
        Value::Array(list) => list.iter().any(|value| value.is_object() && mentions(value, kind)),
        _ => false,
    }
}

/// Every string under `key`.
fn strings<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    match value {
        Value::Object(map) => {
            let own = map.get(key).and_then(Value::as_str).into_iter();
            own.chain(map.values().flat_map(|value| strings(value, key))).collect()
        }
        Value::Array(list) => list.iter().flat_map(|value| strings(value, key)).collect(),
        _ => Vec::new(),
    }
}
