//! A tokenizer with its chat template: conversations in, token ids with a known prompt/response boundary out.
//! Reading its files is `files`, the boundary `scoring`, writing them back `save`.

mod diagnosis;
mod files;
mod library;
mod save;
mod scoring;
mod word_level;

pub use scoring::EncodedPair;
pub(crate) use scoring::plain_prompt as plain_text;

use crate::error::DataError;
use crate::message::Message;
use crate::template::ChatTemplate;
use crate::tokenise::TokenisedSequence;
use bso_durable::Fingerprint;
use files::TokenizerFiles;
use library::Library;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which template turns conversations into text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TemplateChoice {
    /// The tokenizer's own; none where it has none.
    #[default]
    Auto,
    /// No template: prompt and response are encoded as they are.
    None,
    /// One of the tokenizer's named templates, or a built-in one ([`ChatTokenizer::BUILT_IN`]).
    Named(String),
    /// A file: Jinja, or JSON with a `chat_template` string.
    File(PathBuf),
    /// The Jinja source itself.
    Text(String),
}

impl TemplateChoice {
    /// Reads what a user writes: `auto`, `none`, a path (with a separator or an extension, or an existing file), or a name.
    pub fn parse(text: &str) -> Self {
        match text {
            "auto" | "" => Self::Auto,
            "none" => Self::None,
            _ if text.contains("{{") || text.contains("{%") => Self::Text(text.to_owned()),
            _ if text.contains(['/', '\\']) || text.ends_with(".jinja") || text.ends_with(".json") => {
                Self::File(text.into())
            }
            _ if Path::new(text).is_file() => Self::File(text.into()),
            _ => Self::Named(text.to_owned()),
        }
    }
}

/// A tokenizer, its template and its special tokens.
#[derive(Debug)]
pub struct ChatTokenizer {
    library: Library,
    template: Option<ChatTemplate>,
    bos: Option<(String, u32)>,
    eos: (String, u32),
    adds_bos: bool,
    specials: BTreeSet<u32>,
    stops: BTreeSet<u32>,
    whole_turns: bool,
    files: TokenizerFiles,
    place: PathBuf,
}

impl ChatTokenizer {
    /// Names of the templates that come with the program.
    pub const BUILT_IN: [&'static str; 3] = ["chatml", "safe_rlhf", "plain"];

    /// Loads `tokenizer.json` and what stands beside it in `dir` (a model directory), with the template chosen.
    ///
    /// # Errors
    /// A missing, damaged or oversized file; no end-of-sequence token; an unknown or broken template.
    pub fn load(dir: &Path, choice: &TemplateChoice) -> Result<Self, DataError> {
        Self::assemble(TokenizerFiles::read(dir)?, choice, dir)
    }

    /// A tokenizer in memory: `tokenizer`, the source of its template if any, and its special tokens, which must be in
    /// its vocabulary or are added to it.
    ///
    /// # Errors
    /// The tokenizer cannot be serialised, or the template does not compile.
    pub fn from_parts(
        tokenizer: &tokenizers::Tokenizer,
        template: Option<&str>,
        bos: Option<&str>,
        eos: &str,
    ) -> Result<Self, DataError> {
        let place = PathBuf::from("(in memory)");
        let files = TokenizerFiles::from_parts(tokenizer, bos, eos)
            .map_err(|problem| DataError::Tokenizer { path: place.clone(), problem })?;
        let choice = template.map_or(TemplateChoice::None, |t| TemplateChoice::Text(t.to_owned()));
        Self::assemble(files, &choice, &place)
    }

    fn assemble(files: TokenizerFiles, choice: &TemplateChoice, place: &Path) -> Result<Self, DataError> {
        let refuse = |problem: String| DataError::Tokenizer { path: place.to_owned(), problem };
        let mut library = Library::new(&files.tokenizer_json).map_err(refuse)?;
        let special = files.special_tokens(&library).map_err(refuse)?;
        library.add_specials(&special.all).map_err(refuse)?;
        let resolve = |token: &String| library.id(token).map(|id| (token.clone(), id));
        let bos = special.bos.as_ref().and_then(resolve);
        let eos = special.eos.as_ref().and_then(resolve).ok_or_else(|| {
            refuse(
                "no end-of-sequence token: name eos_token in tokenizer_config.json (or eos_token_id in config.json)"
                    .to_owned(),
            )
        })?;
        let mut names: BTreeMap<String, String> = special.named.clone();
        names.insert("eos_token".to_owned(), eos.0.clone());
        if let Some((bos, _)) = &bos {
            names.insert("bos_token".to_owned(), bos.clone());
        }
        let template = files.template(choice, place)?.map(|t| ChatTemplate::new(&t.source, t.name, names));
        let template = template.transpose()?;
        let mut specials = library.special_ids();
        specials.insert(eos.1);
        specials.extend(bos.iter().map(|b| b.1));
        let adds_bos = match (&bos, files.add_bos_token) {
            (None, _) | (_, Some(false)) => false,
            (Some(_), Some(true)) => true,
            (Some((_, id)), None) => library.encode("a", true).map_err(refuse)?.ids.first() == Some(id),
        };
        let mut stops: BTreeSet<u32> = files.stop_ids.iter().copied().collect();
        stops.insert(eos.1);
        let mut tokenizer = Self {
            library,
            template,
            bos,
            eos,
            adds_bos,
            specials,
            stops,
            whole_turns: false,
            files,
            place: place.to_owned(),
        };
        tokenizer.learn_end_of_turn();
        Ok(tokenizer)
    }

    /// The end-of-turn token of the template, seen in a sample conversation, stops generation as well.
    fn learn_end_of_turn(&mut self) {
        // A template that refuses this conversation says so when it is used on data, with the row.
        if let Ok(sample) = self.encode_response(&[Message::user("a")], "b") {
            self.stops.extend(sample.response.last());
        }
    }

    /// The prompt as generation sees it: with the header of the assistant's turn, or with BOS if there is no template.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn encode_prompt(&self, prompt: &[Message]) -> Result<Vec<u32>, DataError> {
        scoring::prompt(self, prompt).map(|p| p.ids)
    }

    /// Prompt and response with their boundary; the response ends in its end-of-turn token.
    ///
    /// # Errors
    /// The template refuses the conversation, or writes the prompt differently once the response follows.
    pub fn encode_response(
        &self,
        prompt: &[Message],
        response: &str,
    ) -> Result<TokenisedSequence, DataError> {
        scoring::sequence(self, prompt, response)
    }

    /// Two responses to one prompt.
    ///
    /// # Errors
    /// As [`ChatTokenizer::encode_response`].
    pub fn encode_pair(&self, prompt: &[Message], responses: [&str; 2]) -> Result<EncodedPair, DataError> {
        scoring::pair(self, prompt, responses)
    }

    /// From here on examples are the tokens of their whole templated text, what the template writes behind a turn's end
    /// (Qwen's newline) included: a scalar head reads the very last one, and no prompt is continued.
    pub fn keep_whole_turns(&mut self) {
        self.whole_turns = true;
    }

    /// The tokens behind a response's end that examples keep; none unless [`ChatTokenizer::keep_whole_turns`] was called.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn behind_turn(&self, prompt: &[Message]) -> Result<Vec<u32>, DataError> {
        if self.whole_turns { scoring::behind_turn(self, prompt) } else { Ok(Vec::new()) }
    }

    /// What is odd about the template beside this tokenizer, a sentence each with the remedy: special tokens that it does
    /// not know, a doubled BOS, a turn without an end.
    pub fn oddities(&self) -> Vec<String> {
        diagnosis::oddities(self)
    }

    /// Whether a prompt begins with BOS twice, as when a row's text already holds it.
    pub fn doubles_bos(&self, prompt: &[u32]) -> bool {
        self.bos.as_ref().is_some_and(|(_, bos)| prompt.starts_with(&[*bos, *bos]))
    }

    /// Positions of the prompt's tokens that carry message text and so may be cut (`keep_end`).
    pub(crate) fn cuttable(&self, prompt: &[Message]) -> Result<Vec<usize>, DataError> {
        scoring::cuttable(self, prompt)
    }

    /// Plain text as ids, without any special token added.
    ///
    /// # Errors
    /// The tokenizer fails on the text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.library.encode(text, false).map(|e| e.ids).map_err(|p| self.refusal(p))
    }

    /// The conversation as text, as the template writes it; for `none`, as it would be encoded.
    ///
    /// # Errors
    /// The template refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, DataError> {
        match &self.template {
            Some(template) => template.render(messages, add_generation_prompt),
            None => Ok(scoring::plain_prompt(messages)),
        }
    }

    /// The text of `ids`, special tokens left out; ids outside the vocabulary are left out too.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.library.decode(ids, true)
    }

    /// The text of `ids` with special tokens written out.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.library.decode(ids, false)
    }

    /// Tokens at which generation stops: EOS, the model's list, and the template's end-of-turn. Sorted.
    pub fn end_of_turn_ids(&self) -> Vec<u32> {
        self.stops.iter().copied().collect()
    }

    /// One more than the largest id that encoding can give: the least size of a fitting embedding.
    pub fn vocab_size(&self) -> usize {
        self.library.vocab_size()
    }

    /// The beginning-of-sequence token and its id, if there is one.
    pub fn bos(&self) -> Option<(&str, u32)> {
        self.bos.as_ref().map(|(token, id)| (token.as_str(), *id))
    }

    /// The end-of-sequence token and its id.
    pub fn eos(&self) -> (&str, u32) {
        (&self.eos.0, self.eos.1)
    }

    /// Whether BOS stands before a prompt that no template writes.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The id of a token, if it is in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.library.id(token)
    }

    /// Whether `id` is a special token (framing rather than text).
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.contains(&id)
    }

    /// The template in use, if any.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Changes whenever the same conversation could become other tokens.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::new();
        fingerprint.part("bso tokens 1").part(&self.files.tokenizer_json);
        fingerprint.part(self.template.as_ref().map_or("none", |t| t.source()));
        fingerprint.part(self.eos.1.to_le_bytes()).part([u8::from(self.adds_bos)]);
        fingerprint.part(self.bos.as_ref().map_or(u32::MAX, |b| b.1).to_le_bytes());
        for id in &self.specials {
            fingerprint.part(id.to_le_bytes());
        }
        fingerprint.finish()
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` (as they were read) and, where there is
    /// a template, `chat_template.jinja` into an existing folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), DataError> {
        save::save(self, dir)
    }

    /// A tokenizer of whole words for synthetic languages: text is split at blanks, and decoding joins with single
    /// blanks, so that text of known words parted by single blanks comes back as it was. Special tokens, ids 0 to 5:
    /// `<pad> <bos> <user> <assistant> <end> <unk>`; then `words` in order, from id 6. The template writes
    /// `<bos><user>...<end><assistant>...<end>`.
    ///
    /// # Errors
    /// A word is empty, contains a blank, repeats, or has the name of a special token.
    pub fn word_level(words: &[&str]) -> Result<Self, DataError> {
        let place = PathBuf::from("(word-level tokenizer)");
        let files = word_level::files(words)
            .map_err(|problem| DataError::Tokenizer { path: place.clone(), problem })?;
        Self::assemble(files, &TemplateChoice::Auto, &place)
    }

    fn refusal(&self, problem: String) -> DataError {
        DataError::Tokenizer { path: self.place.clone(), problem }
    }
}

#[cfg(test)]
mod tests;
