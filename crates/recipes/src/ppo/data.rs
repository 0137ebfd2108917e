//! The prompts to sample from, each once, and the rows to imitate.

use crate::RecipeError;
use crate::config::{PpoLagSection, TrainConfig};
use crate::dataset::{gather, gather_beside, template_choice};
use crate::example::Example;
use crate::policy;
use bso_data::{
    ChatTokenizer, Ledger, Needs, Prompted, SftExample, TokenisedSequence, Truncation, TruncationMode,
    load_sft, split_by_prompt, tokenise_sft,
};
use bso_durable::{Observer, Seed};
use std::collections::BTreeSet;

/// A prompt with room for a response.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptTokens {
    /// Token ids, with the header of the assistant's turn.
    pub ids: Vec<u32>,
    /// What the template writes behind the end of the response's turn, which scoring models have seen.
    pub behind: Vec<u32>,
    /// Most tokens of a response, at least 1.
    pub room: usize,
}

/// What a run samples from and imitates.
pub struct PpoData {
    /// Distinct prompts in the order of the rows.
    pub prompts: Vec<PromptTokens>,
    /// Distinct prompts that are left out.
    pub held_out: usize,
    /// Rows to imitate; none without `ptx_dataset_name`.
    pub ptx: Vec<Example>,
    /// The account of every row of both.
    pub ledger: Ledger,
}

impl PpoData {
    /// Reads, splits and tokenises; `context` is the longest sequence that every model can take.
    ///
    /// # Errors
    /// Everything that can be wrong with data, by file and row; no prompt with room for a response.
    pub fn load(
        config: &TrainConfig,
        section: &PpoLagSection,
        (tokenizer, context): (&ChatTokenizer, usize),
        observer: &dyn Observer,
    ) -> Result<Self, RecipeError> {
        let read = gather(config, &Needs::default(), observer, load_sft)?;
        let mut ledger = read.ledger;
        let (train, eval) = match read.eval {
            Some(eval) => (read.train, eval),
            None => split_by_prompt(read.train, config.data.eval_split, Seed::new(config.model.seed)),
        };
        let limit = config.data.max_length.map_or(context, |length| length.min(context));
        let prompts = distinct(&train, config, (section, tokenizer, limit), &mut ledger)?;
        if prompts.is_empty() {
            return Err(RecipeError::input(format!(
                "{}: no prompt leaves room for a response within {limit} tokens ({ledger}); raise max_length",
                config.data.named()
            )));
        }
        let held_out = eval.iter().map(|row| row.prompt()).map(|p| format!("{p:?}")).collect::<BTreeSet<_>>();
        ledger.kept = prompts.len();
        let ptx = rows_to_imitate(config, section, tokenizer, &mut ledger, observer)?;
        Ok(Self { prompts, held_out: held_out.len(), ptx, ledger })
    }

    /// The prompts as examples without a response, for the fingerprint of the data.
    pub fn as_examples(&self) -> Vec<Example> {
        let sequence =
            |p: &PromptTokens| TokenisedSequence { prompt: p.ids.clone(), response: p.behind.clone() };
        self.prompts.iter().map(|p| example(sequence(p))).collect()
    }
}

/// The prompts of `rows` in tokens, each once.
fn distinct(
    rows: &[SftExample],
    config: &TrainConfig,
    (section, tokenizer, limit): (&PpoLagSection, &ChatTokenizer, usize),
    ledger: &mut Ledger,
) -> Result<Vec<PromptTokens>, RecipeError> {
    let folder = policy::tokenizer_folder(&config.model.model_name_or_path)?;
    let mut whole = ChatTokenizer::load(&folder, &template_choice(&config.data.chat_template))?;
    whole.keep_whole_turns();
    let (mut seen, mut prompts) = (BTreeSet::new(), Vec::new());
    for row in rows {
        let ids = tokenizer.encode_prompt(&row.prompt)?;
        if !seen.insert(ids.clone()) {
            ledger.drop("the same prompt again", &row.origin);
            continue;
        }
        let behind = whole.behind_turn(&row.prompt)?;
        let left = limit.saturating_sub(ids.len() + behind.len());
        if left == 0 || ids.is_empty() {
            if config.data.truncation_mode == TruncationMode::Raise {
                return Err(RecipeError::input(format!(
                    "{}: the prompt has {} tokens and leaves no room for a response within {limit}; raise max_length or choose \
                     another truncation_mode",
                    row.origin,
                    ids.len()
                )));
            }
            ledger.drop("the prompt leaves no room for a response", &row.origin);
            continue;
        }
        let room = section.max_new_tokens.map_or(left, |most| most.min(left));
        prompts.push(PromptTokens { ids, behind, room });
    }
    Ok(prompts)
}

fn rows_to_imitate(
    config: &TrainConfig,
    section: &PpoLagSection,
    tokenizer: &ChatTokenizer,
    ledger: &mut Ledger,
    observer: &dyn Observer,
) -> Result<Vec<Example>, RecipeError> {
    if section.ptx_datasets.is_empty() {
        return Ok(Vec::new());
    }
    let read = gather_beside(config, &section.ptx_datasets, observer, load_sft)?;
    let truncation = Truncation { max_length: config.data.max_length, mode: config.data.truncation_mode };
    let mut account = read.ledger;
    let examples = tokenise_sft(&read.train, tokenizer, truncation, &mut account, observer)?;
    let kept = ledger.kept;
    ledger.absorb(account);
    ledger.kept = kept + examples.len();
    if examples.is_empty() {
        return Err(RecipeError::input("ptx_dataset_name: no row is left to imitate; see `bso data check`"));
    }
    Ok(examples.into_iter().map(Example::from).collect())
}

fn example(sequence: TokenisedSequence) -> Example {
    Example { sequences: vec![sequence], mismatched: None, labels: None, margins: None, desirable: true }
}
