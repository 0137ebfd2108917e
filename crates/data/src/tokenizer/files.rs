//! The files of a tokenizer directory: what they say about special tokens and templates, and their bytes as they were.

use super::TemplateChoice;
use super::library::Library;
use crate::error::DataError;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Larger files are refused before they are read.
const MAX_FILE_BYTES: u64 = 512 << 20;
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIALS: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
/// The tokens that transformers knows by name, in its order.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// The format of the safe-rlhf code (arXiv 2310.12773), in which its reward and cost models were trained.
const SAFE_RLHF: &str = "BEGINNING OF CONVERSATION: {% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'ASSISTANT:' + message['content'] + eos_token }}{% else %}{{ 'USER: ' + message['content'] + ' ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";
const PLAIN: &str = "{% if bos_token is defined %}{{ bos_token }}{% endif %}{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";

/// A template's source and where it came from.
pub(super) struct Found {
    pub(super) source: String,
    pub(super) name: String,
}

/// The special tokens by their names, and all of them.
pub(super) struct SpecialTokens {
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) named: BTreeMap<String, String>,
    pub(super) all: Vec<String>,
}

/// What was read, kept for writing it back byte by byte.
#[derive(Debug, Default)]
pub(super) struct TokenizerFiles {
    pub(super) tokenizer_json: Vec<u8>,
    /// The other files by name.
    pub(super) others: BTreeMap<String, Vec<u8>>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) stop_ids: Vec<u32>,
    config: Map<String, Value>,
    specials: Map<String, Value>,
    /// `bos_token_id` and `eos_token_id` of the model's own configs.
    model_bos: Option<u32>,
    templates: BTreeMap<String, Value>,
}

impl TokenizerFiles {
    pub(super) fn read(dir: &Path) -> Result<Self, DataError> {
        if !dir.is_dir() {
            return Err(DataError::Tokenizer {
                path: dir.to_owned(),
                problem: "it is no folder; name the folder that holds tokenizer.json (models on a hub are not fetched: download it first)".to_owned(),
            });
        }
        let Some(tokenizer_json) = bytes(&dir.join(TOKENIZER))? else {
            return Err(DataError::Tokenizer {
                path: dir.to_owned(),
                problem: "it holds no tokenizer.json; write one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)".to_owned(),
            });
        };
        let mut files = Self { tokenizer_json, ..Self::default() };
        for name in [CONFIG, SPECIALS, TEMPLATE, TEMPLATE_JSON, "added_tokens.json"] {
            if let Some(content) = bytes(&dir.join(name))? {
                files.others.insert(name.to_owned(), content);
            }
        }
        files.config = files.object(dir, CONFIG)?;
        files.specials = files.object(dir, SPECIALS)?;
        files.interpret(dir)?;
        Ok(files)
    }

    pub(super) fn from_parts(
        tokenizer: &tokenizers::Tokenizer,
        bos: Option<&str>,
        eos: &str,
    ) -> Result<Self, String> {
        let json = tokenizer.to_string(true).map_err(|e| format!("it cannot be serialised: {e}"))?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos,
            "clean_up_tokenization_spaces": false,
        });
        Ok(Self::in_memory(json.into_bytes(), &config))
    }

    /// Files that exist only here; `config` is the content of `tokenizer_config.json`.
    pub(super) fn in_memory(tokenizer_json: Vec<u8>, config: &Value) -> Self {
        let text = format!("{config:#}\n");
        let config = config.as_object().cloned().unwrap_or_default();
        let mut files = Self { tokenizer_json, config, ..Self::default() };
        files.others.insert(CONFIG.to_owned(), text.into_bytes());
        if let Some(template) = files.config.get("chat_template") {
            files.templates.insert("default".to_owned(), template.clone());
        }
        files
    }

    fn object(&self, dir: &Path, name: &str) -> Result<Map<String, Value>, DataError> {
        self.others.get(name).map_or(Ok(Map::new()), |content| parse_object(&dir.join(name), content))
    }

    fn interpret(&mut self, dir: &Path) -> Result<(), DataError> {
        self.add_bos_token = self.config.get("add_bos_token").and_then(Value::as_bool);
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            let Some(content) = bytes(&path)? else { continue };
            let model = parse_object(&path, &content)?;
            let ids = |key: &str| -> Vec<u32> {
                let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
                match model.get(key) {
                    Some(Value::Array(items)) => items.iter().filter_map(id).collect(),
                    Some(value) => id(value).into_iter().collect(),
                    None => Vec::new(),
                }
            };
            self.stop_ids.extend(ids("eos_token_id"));
            self.model_bos = self.model_bos.or(ids("bos_token_id").first().copied());
        }
        match self.config.get("chat_template") {
            Some(Value::Array(list)) => {
                for entry in list {
                    if let (Some(name), Some(template)) = (entry.get("name"), entry.get("template")) {
                        self.templates.insert(text(name), template.clone());
                    }
                }
            }
            Some(template @ Value::String(_)) => {
                self.templates.insert("default".to_owned(), template.clone());
            }
            _ => {}
        }
        if let Some(template) = self.object(dir, TEMPLATE_JSON)?.get("chat_template") {
            self.templates.insert("default".to_owned(), template.clone());
        }
        if let Some(source) = self.others.get(TEMPLATE) {
            let source = utf8(&dir.join(TEMPLATE), source)?;
            self.templates.insert("default".to_owned(), Value::from(source));
        }
        Ok(())
    }

    /// Special tokens: tokenizer_config.json first, then special_tokens_map.json, then the ids of the model's configs.
    pub(super) fn special_tokens(&self, library: &Library) -> Result<SpecialTokens, String> {
        let mut named = BTreeMap::new();
        let mut all = Vec::new();
        for name in NAMED {
            let token =
                [&self.config, &self.specials].into_iter().find_map(|m| m.get(name).and_then(token_text));
            if let Some(token) = token {
                all.push(token.clone());
                named.insert(name.to_owned(), token);
            }
        }
        let by_id = |id: Option<u32>| id.and_then(|id| library.token(id));
        let bos = named.get("bos_token").cloned();
        // A config that names "bos_token": null has decided that there is none.
        let bos =
            if self.config.contains_key("bos_token") { bos } else { bos.or_else(|| by_id(self.model_bos)) };
        let eos = named.get("eos_token").cloned().or_else(|| by_id(self.stop_ids.first().copied()));
        all.extend(bos.iter().chain(&eos).cloned());
        for list in
            [&self.config, &self.specials].into_iter().filter_map(|m| m.get("additional_special_tokens"))
        {
            all.extend(list.as_array().into_iter().flatten().filter_map(token_text));
        }
        let added = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        for token in added.into_iter().flat_map(Map::values) {
            if token.get("special").and_then(Value::as_bool) == Some(true) {
                all.extend(token_text(token));
            }
        }
        if let Some(long) = all.iter().find(|t| t.len() > 1024) {
            let start: String = long.chars().take(20).collect();
            return Err(format!("a special token is longer than 1024 bytes ({start:?}...)"));
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|t| seen.insert(t.clone()));
        Ok(SpecialTokens { bos, eos, named, all })
    }

    /// The source of the template chosen, if one is to be used.
    pub(super) fn template(&self, choice: &TemplateChoice, dir: &Path) -> Result<Option<Found>, DataError> {
        match choice {
            TemplateChoice::None => Ok(None),
            TemplateChoice::Auto => {
                let only = if self.templates.len() == 1 { self.templates.iter().next() } else { None };
                match self.templates.get_key_value("default").or(only) {
                    Some((_, source)) => own("its own", source, dir).map(Some),
                    None if self.templates.is_empty() => Ok(None),
                    None => Err(unknown("auto (the tokenizer has several and no default)", &self.templates)),
                }
            }
            TemplateChoice::Text(source) => {
                Ok(Some(Found { source: source.clone(), name: "given as text".to_owned() }))
            }
            TemplateChoice::File(path) => from_file(path).map(Some),
            TemplateChoice::Named(name) => match (self.templates.get(name), name.as_str()) {
                (Some(source), _) => own(name, source, dir).map(Some),
                (None, "chatml") => Ok(Some(built_in(name, CHATML))),
                (None, "safe_rlhf") => Ok(Some(built_in(name, SAFE_RLHF))),
                (None, "plain") => Ok(Some(built_in(name, PLAIN))),
                _ => Err(unknown(name, &self.templates)),
            },
        }
    }
}

fn built_in(name: &str, source: &str) -> Found {
    Found { source: source.to_owned(), name: format!("{name} (built in)") }
}

fn own(name: &str, source: &Value, dir: &Path) -> Result<Found, DataError> {
    let name = format!("{name} of {}", dir.display());
    match source {
        Value::String(source) => Ok(Found { source: source.clone(), name }),
        _ => Err(DataError::Template { template: name, problem: "it is no string".to_owned() }),
    }
}

fn unknown(name: &str, templates: &BTreeMap<String, Value>) -> DataError {
    let own: Vec<&str> = templates.keys().map(String::as_str).collect();
    DataError::Template {
        template: name.to_owned(),
        problem: format!(
            "there is none of this name; the tokenizer has {}; built in are {}; a file is named by its path, `none` uses no template",
            if own.is_empty() { "none".to_owned() } else { own.join(", ") },
            super::ChatTokenizer::BUILT_IN.join(", ")
        ),
    }
}

fn from_file(path: &Path) -> Result<Found, DataError> {
    let not_found = || DataError::io(path, std::io::ErrorKind::NotFound.into());
    let content = bytes(path)?.ok_or_else(not_found)?;
    let name = path.display().to_string();
    let source = utf8(path, &content)?;
    // A JSON file holds its template under a key; a Jinja template may itself begin with a brace.
    if path.extension().is_some_and(|e| e == "json") {
        let object = parse_object(path, &content)?;
        return match object.get("chat_template") {
            Some(Value::String(source)) => Ok(Found { source: source.clone(), name }),
            _ => Err(DataError::Template {
                template: name,
                problem: "the JSON file has no string named chat_template".to_owned(),
            }),
        };
    }
    Ok(Found { source, name })
}

/// A token written as text or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn utf8(path: &Path, content: &[u8]) -> Result<String, DataError> {
    String::from_utf8(content.to_vec())
        .map_err(|_| DataError::Tokenizer { path: path.to_owned(), problem: "it is not UTF-8".to_owned() })
}

fn parse_object(path: &Path, content: &[u8]) -> Result<Map<String, Value>, DataError> {
    let refuse = |problem: String| DataError::Tokenizer { path: path.to_owned(), problem };
    match serde_json::from_slice(content) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(refuse("it should hold a JSON object".to_owned())),
        Err(e) => Err(refuse(format!("it is not JSON: {e}; restore it from where the model came from"))),
    }
}

/// A file's bytes, none where it does not exist.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    let size = match std::fs::metadata(path) {
        Ok(about) if about.is_file() => about.len(),
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DataError::io(path, e)),
    };
    if size > MAX_FILE_BYTES {
        return Err(DataError::Tokenizer {
            path: path.to_owned(),
            problem: format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20),
        });
    }
    std::fs::read(path).map(Some).map_err(|e| DataError::io(path, e))
}
