//! `bso logprobs`: the log-prob of every response of every row under a model, exactly as training scores it.

use crate::RecipeError;
use crate::batches::by_tokens;
use crate::fitting::positions;
use crate::generate::{ChatModel, tell_skipped};
use crate::lines::{self, ReadRows};
use crate::location::{local_model, local_rows};
use crate::step::pack;
use bso_data::{
    Ledger, Origin, Preference, PreferencePair, PreferenceRecord, Schema, SftExample, TemplateChoice,
    TokenisedSequence, Truncation, TruncationMode, tokenise_pairs, tokenise_sft,
};
use bso_durable::{Event, Interrupt, Observer, Task};
use bso_model::{DType, Device, Engine, ModelError, Workspace};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// What `bso logprobs` is asked to do.
#[derive(Clone, Debug)]
pub struct LogprobsTask {
    /// Model directory.
    pub model: PathBuf,
    /// Rows; `-` is standard input.
    pub data: PathBuf,
    /// Where the rows go; `-` is standard output.
    pub output: PathBuf,
    /// The template.
    pub template: TemplateChoice,
    /// Orders the responses of PKU rows into chosen and rejected.
    pub preference: Option<Preference>,
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

/// What a row holds: two responses to one prompt, or one.
enum Responses {
    /// With the prefixes that their new fields get.
    Two([&'static str; 2], PreferencePair),
    One(SftExample),
}

const TOKENS: usize = 4096;

/// Adds `<prefix>logp` and `<prefix>tokens` to every row.
///
/// # Errors
/// Bad rows by line; a model that cannot be used; an output that cannot be written.
pub fn logprobs(
    task: &LogprobsTask,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    lines::check_output(&task.output)?;
    let (rows, mut skipped) =
        lines::read(&local_rows(&task.data, &[None], observer)?, task.rows, |origin, row| {
            responses(origin, row, task.preference)
        })?;
    let engine = Arc::new(Engine::on(task.device, task.num_threads).map_err(ModelError::from)?);
    let mut model = ChatModel::open(&local_model(&task.model, observer)?, &task.template, engine)?;
    model.decoder.compute_in(task.dtype, false)?;
    let mut scored: Vec<ScoredRow> = Vec::with_capacity(rows.len());
    let (tokenised, ledger) = tokenise(&model, rows.iter().map(|(_, r)| r), task.truncation, observer)?;
    let mut tokenised = tokenised.into_iter().peekable();
    let context = model.decoder.config().max_positions;
    for ((origin, row), _) in rows {
        let problem = match tokenised.next_if(|(at, _)| *at == origin) {
            Some((_, sequences)) => match sequences.iter().map(|(_, s)| s.len()).max() {
                Some(tokens) if positions(tokens) > context => {
                    format!(
                        "{tokens} tokens are longer than the model's context of {context}; set --max_length {context}"
                    )
                }
                _ => {
                    scored.push((row, sequences));
                    continue;
                }
            },
            None if task.truncation.mode == TruncationMode::Drop => continue,
            None => {
                "within max_length no two different responses are left to score; raise it or choose another \
                     truncation_mode"
                    .to_owned()
            }
        };
        if !task.rows.skip_bad_rows {
            return Err(lines::bad_row(&origin, problem));
        }
        skipped += 1;
    }
    score(&model, &mut scored, interrupt, observer)?;
    for (kind, count) in ledger.dropped.iter().chain(&ledger.truncated) {
        observer.event(Event::Note(format!("{} x {kind}", count.rows)));
    }
    tell_skipped(skipped, observer);
    lines::write(&task.output, scored.iter().map(|(row, _)| row))
}

/// The sequences of every row that can be scored, in order, with the row's place; and what was cut or dropped.
fn tokenise<'a>(
    model: &ChatModel,
    rows: impl Iterator<Item = &'a Responses>,
    truncation: Truncation,
    observer: &dyn Observer,
) -> Result<(Vec<(Origin, NamedSequences)>, Ledger), RecipeError> {
    let (mut pairs, mut prefixes, mut singles) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        match row {
            Responses::Two(names, pair) => {
                pairs.push(pair.clone());
                prefixes.push((pair.origin.clone(), *names));
            }
            Responses::One(single) => singles.push(single.clone()),
        }
    }
    let mut ledger = Ledger::default();
    let pairs = tokenise_pairs(&pairs, &model.tokenizer, truncation, &mut ledger, observer)?;
    let singles = tokenise_sft(&singles, &model.tokenizer, truncation, &mut ledger, observer)?;
    let mut names = prefixes.into_iter();
    let pairs = pairs.into_iter().filter_map(|pair| {
        let (origin, [first, second]) = names.by_ref().find(|(origin, _)| *origin == pair.origin)?;
        Some((origin, vec![(first, pair.chosen), (second, pair.rejected)]))
    });
    let singles = singles.into_iter().map(|s| (s.origin, vec![("", s.sequence)]));
    let mut all: Vec<_> = pairs.chain(singles).collect();
    // Files may mix both kinds of row: back to the order of the rows.
    all.sort_by(|(a, _), (b, _)| (&a.file, a.row).cmp(&(&b.file, b.row)));
    Ok((all, ledger))
}

type ScoredRow = (Map<String, Value>, NamedSequences);
/// A row's sequences with the prefixes of their new fields.
type NamedSequences = Vec<(&'static str, TokenisedSequence)>;

fn score(
    model: &ChatModel,
    rows: &mut [ScoredRow],
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    let mut progress = Task::start(observer, "log-probs", Some(rows.len() as u64), "rows");
    let mut workspace = Workspace::new();
    let lengths: Vec<usize> = rows.iter().map(|(_, s)| s.iter().map(|(_, s)| s.len()).sum()).collect();
    for group in by_tokens(lengths, TOKENS) {
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        let group = &mut rows[group];
        let reads = model.decoder.config().reads();
        let batch = pack(reads, group.iter().flat_map(|(_, sequences)| sequences.iter().map(|(_, s)| s)))?;
        let mut log_probs = model.decoder.log_probs_in(&batch, &mut workspace)?.into_iter();
        for (row, sequences) in group.iter_mut() {
            for ((prefix, sequence), log_prob) in sequences.iter().zip(log_probs.by_ref()) {
                if !log_prob.is_finite() {
                    return Err(RecipeError::failed(format!(
                        "the model gives a response the log-prob {log_prob}: its weights are not finite or overflow in \
                         f32; fetch or save the model again"
                    )));
                }
                row.insert(format!("{prefix}logp"), log_prob.into());
                row.insert(format!("{prefix}tokens"), sequence.response.len().into());
            }
        }
        progress.advance(group.len() as u64, String::new);
    }
    Ok(())
}

/// The responses of a row: of a pair, of a PKU row (by number, or ordered by `preference`), or a single one.
fn responses(
    origin: &Origin,
    row: &Map<String, Value>,
    preference: Option<Preference>,
) -> Result<Responses, String> {
    let by_number = row.contains_key("response_0") && preference.is_none();
    if by_number || row.contains_key("response_0") || row.contains_key("chosen") {
        let schema = Schema::detect(row).map_err(|e| e.to_string())?.schema;
        let record = PreferenceRecord::parse(schema, row, origin).map_err(|(_, why)| why)?;
        if by_number {
            let [chosen, rejected] = record.responses;
            let pair = PreferencePair {
                prompt: record.prompt,
                chosen,
                rejected,
                chosen_unsafe: None,
                rejected_unsafe: None,
                chosen_margin: None,
                rejected_margin: None,
                origin: origin.clone(),
            };
            return Ok(Responses::Two(["response_0_", "response_1_"], pair));
        }
        let pair = record.into_pair(preference.unwrap_or_default()).map_err(|(_, why)| why)?;
        return Ok(Responses::Two(["chosen_", "rejected_"], pair));
    }
    let prompt = lines::conversation(row)?;
    let response = lines::text(row, "response")?.to_owned();
    Ok(Responses::One(SftExample { prompt, response, origin: origin.clone() }))
}
