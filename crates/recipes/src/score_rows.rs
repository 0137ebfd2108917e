//! `bso score`: the score of every row under a reward or cost model.

use crate::RecipeError;
use crate::batches::by_tokens;
use crate::generate::{ChatModel, tell_skipped};
use crate::lines::{self, ReadRows};
use crate::location::{local_model, local_rows};
use crate::score::TOKENS;
use crate::step::pack;
use bso_data::{
    Ledger, Origin, SftExample, TemplateChoice, TokenisedSequence, Truncation, TruncationMode, tokenise_sft,
};
use bso_durable::{Event, Interrupt, Observer, Task};
use bso_model::{DType, Device, Engine, ModelError, ScoreHead, Workspace};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// What `bso score` is asked to do.
#[derive(Clone, Debug)]
pub struct ScoreTask {
    /// Directory of a model with a scalar head.
    pub model: PathBuf,
    /// Rows; `-` is standard input.
    pub input: PathBuf,
    /// Where the rows go; `-` is standard output.
    pub output: PathBuf,
    /// The field that holds the score.
    pub field: String,
    /// The template.
    pub template: TemplateChoice,
    /// Length limit.
    pub truncation: Truncation,
    /// Count bad rows instead of stopping.
    pub rows: ReadRows,
    /// Precision of products.
    pub dtype: DType,
    /// Where to compute.
    pub device: Device,
    /// Threads; none: one per core.
    pub num_threads: Option<usize>,
}

type Fields = Map<String, Value>;

/// Adds the field to every row: the score at the last token of its templated text, normalised where the model says so.
///
/// # Errors
/// Bad rows by line; a model without a scalar head, or one that cannot be used; an output that cannot be written.
pub fn score_rows(
    task: &ScoreTask,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    if task.field.is_empty() {
        return Err(RecipeError::input("--field is empty; name the field that is to hold the score"));
    }
    lines::check_output(&task.output)?;
    let (rows, mut skipped) = lines::read(&local_rows(&task.input, &[None], observer)?, task.rows, dialogue)?;
    let engine = Arc::new(Engine::on(task.device, task.num_threads).map_err(ModelError::from)?);
    let dir = local_model(&task.model, observer)?;
    let mut model = ChatModel::open(&dir, &task.template, engine)?;
    model.tokenizer.keep_whole_turns();
    model.decoder.compute_in(task.dtype, false)?;
    let Some(head) = model.decoder.config().score.clone() else {
        return Err(RecipeError::input(format!(
            "{}: a {} has no scalar head; name a reward or cost model (...ForSequenceClassification with num_labels 1, or \
             ...ForScore)",
            task.model.display(),
            model.decoder.config().class()
        )));
    };
    let mut ledger = Ledger::default();
    let examples: Vec<SftExample> = rows.iter().map(|(_, example)| example.clone()).collect();
    let tokenised = tokenise_sft(&examples, &model.tokenizer, task.truncation, &mut ledger, observer)?;
    let mut tokenised = tokenised.into_iter().peekable();
    let context = model.decoder.config().max_positions;
    let mut scored = Vec::with_capacity(rows.len());
    for ((origin, row), _) in rows {
        let problem = match tokenised.next_if(|example| example.origin == origin) {
            Some(example) if example.sequence.len() <= context => {
                scored.push((row, example.sequence));
                continue;
            }
            Some(example) => format!(
                "{} tokens are longer than the model's context of {context}; set --max_length {context}",
                example.sequence.len()
            ),
            None if task.truncation.mode == TruncationMode::Drop => continue,
            None => {
                "within max_length no response is left to score; raise it or choose another truncation_mode"
                    .into()
            }
        };
        if !task.rows.skip_bad_rows {
            return Err(lines::bad_row(&origin, problem));
        }
        skipped += 1;
    }
    let scored = score(&model, (&head, &task.field), scored, (interrupt, observer))?;
    for (kind, count) in ledger.dropped.iter().chain(&ledger.truncated) {
        observer.event(Event::Note(format!("{} x {kind}", count.rows)));
    }
    tell_skipped(skipped, observer);
    lines::write(&task.output, scored.iter())
}

fn score(
    model: &ChatModel,
    (head, field): (&ScoreHead, &str),
    rows: Vec<(Fields, TokenisedSequence)>,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<Vec<Fields>, RecipeError> {
    let mut progress = Task::start(observer, "scores", Some(rows.len() as u64), "rows");
    let (mut workspace, reads) = (Workspace::new(), model.decoder.config().reads());
    let mut done = Vec::with_capacity(rows.len());
    let groups = by_tokens(rows.iter().map(|(_, sequence)| sequence.len()), TOKENS);
    let mut rows = rows.into_iter();
    for group in groups {
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        let group: Vec<_> = rows.by_ref().take(group.len()).collect();
        let batch = pack(reads, group.iter().map(|(_, sequence)| sequence))?;
        let scores = model.decoder.scores_in(&batch, &mut workspace)?;
        let count = group.len() as u64;
        for ((mut row, _), score) in group.into_iter().zip(scores) {
            let score = head.normalise(score);
            if !score.is_finite() {
                return Err(RecipeError::failed(format!(
                    "the model gives a row the score {score}: its weights or its normaliser are not finite or overflow in f32; \
                     fetch or save the model again"
                )));
            }
            row.insert(field.to_owned(), score.into());
            done.push(row);
        }
        progress.advance(count, String::new);
    }
    Ok(done)
}

/// A row's conversation with its answer: `response`, or the last of `messages`.
fn dialogue(origin: &Origin, row: &Fields) -> Result<SftExample, String> {
    let mut prompt = lines::conversation(row)?;
    let response = if row.contains_key("response") {
        lines::answer(row, "response")?.to_owned()
    } else {
        match prompt.pop() {
            Some(last) if last.role == "assistant" => last.content,
            _ => {
                return Err(
                    "no `response`, and the last of its messages is not the assistant's: nothing to score"
                        .into(),
                );
            }
        }
    };
    Ok(SftExample { prompt, response, origin: origin.clone() })
}
