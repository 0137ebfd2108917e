//! `bso generate`: prompts in, a model's responses out; and the opened model that chat and evaluation share.

use crate::RecipeError;
use crate::fitting::{check_finite, check_vocabulary};
use crate::lines::{self, ReadRows};
use crate::loaded::log_model_and_fields;
use crate::location::{local_model, local_rows};
use crate::policy::tokenizer_folder;
use bso_data::{ChatTokenizer, Message, TemplateChoice};
use bso_durable::{Event, Interrupt, Observer, Task};
use bso_model::{DType, Decoder, Device, Engine, FinishReason, GenerateConfig, ModelError, NewToken};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A model with its tokenizer, ready to answer.
pub struct ChatModel {
    /// The weights.
    pub decoder: Decoder,
    /// Its tokenizer and template.
    pub tokenizer: ChatTokenizer,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text, without the token that ended it.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens generated, the one that ended it included.
    pub new_tokens: usize,
}

/// How to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerSettings {
    /// Sampling, length, seed; the stop ids are the tokenizer's.
    pub sampling: GenerateConfig,
    /// Texts that end an answer; the answer stops before them.
    pub stop_texts: Vec<String>,
}

impl ChatModel {
    /// Opens a model directory, or an adapter's.
    ///
    /// # Errors
    /// A tokenizer or weights that cannot be used, or that do not fit each other.
    pub fn open(dir: &Path, template: &TemplateChoice, engine: Arc<Engine>) -> Result<Self, RecipeError> {
        let tokenizer = ChatTokenizer::load(&tokenizer_folder(dir)?, template)?;
        let started = Instant::now();
        let decoder = Decoder::load(dir, engine)?;
        log_model_and_fields(&decoder, dir, started);
        check_vocabulary(&tokenizer, decoder.config(), dir)?;
        check_finite(&decoder, &format!("in {}", dir.display()), "fetch or save the model again")?;
        Ok(Self { decoder, tokenizer })
    }

    /// Answers every conversation, in order.
    ///
    /// # Errors
    /// A template that refuses a conversation; a prompt that does not fit the model; [`RecipeError::Interrupted`].
    pub fn answer(
        &self,
        conversations: &[Vec<Message>],
        settings: &AnswerSettings,
        (interrupt, observer): (&Interrupt, &dyn Observer),
    ) -> Result<Vec<Answer>, RecipeError> {
        let prompts = conversations.iter().map(|c| self.encode(c)).collect::<Result<Vec<_>, _>>()?;
        self.continue_prompts(&prompts, settings, (interrupt, observer))
    }

    /// As [`ChatModel::answer`], for conversations already in tokens.
    fn continue_prompts(
        &self,
        prompts: &[Vec<u32>],
        settings: &AnswerSettings,
        (interrupt, observer): (&Interrupt, &dyn Observer),
    ) -> Result<Vec<Answer>, RecipeError> {
        let mut task = Task::start(observer, "generating", Some(prompts.len() as u64), "responses");
        let mut tokens = 0u64;
        let started = std::time::Instant::now();
        let generated = self.decoder.generate(prompts, &self.with_stops(&settings.sampling), &mut |new| {
            tokens += 1;
            let rate =
                || format!("{:.0} tokens/s", tokens as f64 / started.elapsed().as_secs_f64().max(1e-9));
            task.advance(u64::from(new.finished.is_some()), rate);
            if interrupt.is_raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        Ok(generated
            .iter()
            .map(|g| self.finished(&g.tokens, g.finish_reason, &settings.stop_texts))
            .collect())
    }

    /// Answers one conversation, handing on text as it comes.
    ///
    /// # Errors
    /// As [`ChatModel::answer`].
    pub fn stream(
        &self,
        conversation: &[Message],
        settings: &AnswerSettings,
        interrupt: &Interrupt,
        mut on_text: impl FnMut(&str),
    ) -> Result<Answer, RecipeError> {
        let prompts = [self.encode(conversation)?];
        let (mut ids, mut said) = (Vec::new(), String::new());
        let mut on_token = |new: NewToken| {
            ids.push(new.token);
            let text = self.text(&ids, new.finished);
            // A piece that ends inside a character is held back until the character is whole.
            if !text.ends_with('\u{fffd}') || new.finished.is_some() {
                on_text(text.strip_prefix(said.as_str()).unwrap_or(""));
                said = text;
            }
            let stopped = settings.stop_texts.iter().any(|stop| said.contains(stop.as_str()));
            if stopped || interrupt.is_raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let generated =
            self.decoder.generate(&prompts, &self.with_stops(&settings.sampling), &mut on_token)?;
        let Some(first) = generated.first() else { return Err(RecipeError::failed("nothing was generated")) };
        Ok(self.finished(&first.tokens, first.finish_reason, &settings.stop_texts))
    }

    /// The conversation in tokens, with room for at least one more.
    fn encode(&self, conversation: &[Message]) -> Result<Vec<u32>, RecipeError> {
        let prompt = self.tokenizer.encode_prompt(conversation)?;
        let context = self.decoder.config().max_positions;
        if prompt.len() > context {
            return Err(RecipeError::input(format!(
                "the prompt has {} tokens and the model's context {context}; shorten the prompt",
                prompt.len()
            )));
        }
        Ok(prompt)
    }

    fn with_stops(&self, sampling: &GenerateConfig) -> GenerateConfig {
        let stop_ids = if sampling.stop_ids.is_empty() {
            self.tokenizer.end_of_turn_ids()
        } else {
            sampling.stop_ids.clone()
        };
        GenerateConfig { stop_ids, ..sampling.clone() }
    }

    fn text(&self, ids: &[u32], finished: Option<FinishReason>) -> String {
        let content = if finished == Some(FinishReason::Stop) { &ids[..ids.len() - 1] } else { ids };
        self.tokenizer.decode(content)
    }

    fn finished(&self, ids: &[u32], reason: FinishReason, stop_texts: &[String]) -> Answer {
        let text = self.text(ids, Some(reason));
        let first = |text: &str| stop_texts.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let Some(at) = first(&text) else {
            return Answer { text, finish_reason: reason, new_tokens: ids.len() };
        };
        // Tokens up to the one that completes the stop text: the answer ends there, wherever generation did.
        let counts: Vec<usize> = (1..=ids.len()).collect();
        let short = counts.partition_point(|n| first(&self.tokenizer.decode(&ids[..*n])).is_none());
        let new_tokens = ids.len().min(short + 1);
        Answer { text: text[..at].to_owned(), finish_reason: FinishReason::Stop, new_tokens }
    }
}

/// What `bso generate` is asked to do.
#[derive(Clone, Debug)]
pub struct GenerateTask {
    /// Model directory.
    pub model: PathBuf,
    /// Rows with `prompt` or `messages`; `-` is standard input.
    pub input: PathBuf,
    /// Where rows with `response`, `finish_reason` and `new_tokens` go; `-` is standard output.
    pub output: PathBuf,
    /// The template.
    pub template: TemplateChoice,
    /// Count bad rows instead of stopping.
    pub rows: ReadRows,
    /// How to answer.
    pub settings: AnswerSettings,
    /// Precision of products.
    pub dtype: DType,
    /// Where to compute.
    pub device: Device,
    /// Threads; none: one per core.
    pub num_threads: Option<usize>,
}

/// Answers every row.
///
/// # Errors
/// Bad rows by line; a model that cannot be used; an output that cannot be written.
pub fn generate(
    task: &GenerateTask,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    lines::check_output(&task.output)?;
    let (rows, mut skipped) =
        lines::read(&local_rows(&task.input, &[None], observer)?, task.rows, |_, row| {
            lines::conversation(row)
        })?;
    let engine = Arc::new(Engine::on(task.device, task.num_threads).map_err(ModelError::from)?);
    let mut model = ChatModel::open(&local_model(&task.model, observer)?, &task.template, engine)?;
    model.decoder.compute_in(task.dtype, false)?;
    let (mut kept, mut prompts) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for ((origin, row), conversation) in rows {
        match model.encode(&conversation) {
            Ok(prompt) => {
                kept.push(row);
                prompts.push(prompt);
            }
            Err(_) if task.rows.skip_bad_rows => skipped += 1,
            Err(problem) => return Err(lines::bad_row(&origin, problem)),
        }
    }
    let answers = model.continue_prompts(&prompts, &task.settings, (interrupt, observer))?;
    let answered: Vec<Map<String, Value>> = kept
        .into_iter()
        .zip(answers)
        .map(|(mut row, answer)| {
            row.insert("response".to_owned(), answer.text.into());
            row.insert("finish_reason".to_owned(), answer.finish_reason.name().into());
            row.insert("new_tokens".to_owned(), answer.new_tokens.into());
            row
        })
        .collect();
    tell_skipped(skipped, observer);
    lines::write(&task.output, answered.iter())
}

/// Says how many rows were left out.
pub fn tell_skipped(skipped: usize, observer: &dyn Observer) {
    if skipped > 0 {
        observer.event(Event::Warning(format!("{skipped} rows could not be used and were skipped")));
    }
}
