//! From the configured data sets to training and held-out examples in tokens, every row accounted for.

use crate::RecipeError;
use crate::config::{ChatTemplate, DatasetSource, LossType, ObjectiveSection, TrainConfig};
use crate::example::{Example, mismatch};
use crate::reference::ReferenceLogProbs;
use bso_data::{
    ChatTokenizer, DataError, Ledger, LoadOptions, Loaded, Needs, Part, Preference, PreferencePair, Prompted,
    SafetyTransform, TemplateChoice, Truncation, load_pairs, load_sft, load_unpaired, mix, split_by_prompt,
    tokenise_pairs, tokenise_sft, tokenise_unpaired,
};
use bso_durable::{Observer, Seed};
use bso_objective::{PreferenceLoss, SafetyLabels};
use std::path::Path;

/// Examples ready for the model.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// To train on.
    pub train: Vec<Example>,
    /// Held out, by prompt.
    pub eval: Vec<Example>,
    /// General pairs to train on beside each micro-batch, labelled safe; none without `replay_dataset_name`.
    pub replay: Vec<Example>,
    /// The account of every row.
    pub ledger: Ledger,
    /// The schema and how it was found.
    pub detected: String,
}

/// The template that the configuration asks for.
pub fn template_choice(template: &ChatTemplate) -> TemplateChoice {
    match template {
        ChatTemplate::Auto => TemplateChoice::Auto,
        ChatTemplate::None => TemplateChoice::None,
        ChatTemplate::Named(name) => TemplateChoice::Named(name.clone()),
        ChatTemplate::File(path) => TemplateChoice::File(path.clone()),
    }
}

impl Dataset {
    /// Reads, orders, transforms, splits and tokenises. `loss` says which labels must be there.
    ///
    /// # Errors
    /// Everything that can be wrong with data, by file and row; nothing left to train on.
    pub fn load(
        config: &TrainConfig,
        tokenizer: &ChatTokenizer,
        loss: Option<&PreferenceLoss>,
        observer: &dyn Observer,
    ) -> Result<Self, RecipeError> {
        let data = &config.data;
        let needs = needs(config, loss);
        let truncation = Truncation { max_length: data.max_length, mode: data.truncation_mode };
        let mut dataset = match config.objective.loss_type() {
            LossType::Nll => {
                split(gather(config, &needs, observer, load_sft)?, config, |examples, ledger| {
                    Ok(into_examples(tokenise_sft(examples, tokenizer, truncation, ledger, observer)?))
                })?
            }
            LossType::Kto => {
                split(gather(config, &needs, observer, load_unpaired)?, config, |examples, ledger| {
                    let mut examples =
                        into_examples(tokenise_unpaired(examples, tokenizer, truncation, ledger, observer)?);
                    mismatch(&mut examples, data.max_length);
                    Ok(examples)
                })?
            }
            _ => split(gather(config, &needs, observer, load_pairs)?, config, |examples, ledger| {
                if config.objective.loss_type() == LossType::Cost {
                    refuse_contradictions(examples)?;
                }
                Ok(into_examples(tokenise_pairs(examples, tokenizer, truncation, ledger, observer)?))
            })?,
        };
        if dataset.train.is_empty() {
            return Err(RecipeError::input(format!(
                "{}: no example is left to train on ({}); see `bso data check`",
                data.named(),
                dataset.ledger
            )));
        }
        dataset.add_replay(config, tokenizer, observer)?;
        dataset.ledger.kept = dataset.all().count();
        Ok(dataset)
    }

    /// BFPO's general pairs, whatever labels they have.
    fn add_replay(
        &mut self,
        config: &TrainConfig,
        tokenizer: &ChatTokenizer,
        observer: &dyn Observer,
    ) -> Result<(), RecipeError> {
        let ObjectiveSection::Bfpo { replay_datasets, .. } = &config.objective else { return Ok(()) };
        if replay_datasets.is_empty() {
            return Ok(());
        }
        let read = gather_beside(config, replay_datasets, observer, load_pairs)?;
        let truncation = Truncation { max_length: config.data.max_length, mode: config.data.truncation_mode };
        let mut account = read.ledger;
        let pairs = tokenise_pairs(&read.train, tokenizer, truncation, &mut account, observer)?;
        if pairs.is_empty() {
            return Err(RecipeError::input(format!(
                "replay_dataset_name: no pair is left to train on ({account}); see `bso data check`"
            )));
        }
        self.replay = into_examples(pairs);
        let labels = Some(SafetyLabels { chosen_unsafe: false, rejected_unsafe: false });
        self.replay.iter_mut().for_each(|example| example.labels = labels);
        self.ledger.absorb(account);
        Ok(())
    }
}

/// Reads every row as [`Dataset::load`] does and refuses what it refuses of rows, without tokenising.
///
/// # Errors
/// Everything that can be wrong with rows, by file and row.
pub fn check_rows(
    config: &TrainConfig,
    loss: Option<&PreferenceLoss>,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    let needs = needs(config, loss);
    match config.objective.loss_type() {
        LossType::Nll => gather(config, &needs, observer, load_sft).map(|_| ()),
        LossType::Kto => gather(config, &needs, observer, load_unpaired).map(|_| ()),
        LossType::Cost => refuse_contradictions(&gather(config, &needs, observer, load_pairs)?.train),
        _ => gather(config, &needs, observer, load_pairs).map(|_| ()),
    }
}

impl Dataset {
    /// Sequences that a frozen model computes for it once.
    pub fn sequences(&self) -> u64 {
        self.all().map(|e| e.scored().count() as u64).sum()
    }

    /// Every example.
    pub fn all(&self) -> impl Iterator<Item = &Example> {
        self.train.iter().chain(&self.eval).chain(&self.replay)
    }

    /// MODPO's margins m(y) = beta (log pi_margin(y) - log pi_ref(y)), summed over the response; no gradient passes them.
    pub fn set_margins(&mut self, margin: &ReferenceLogProbs, reference: &ReferenceLogProbs, beta: f64) {
        let parts = [
            (&mut self.train, &margin.train, &reference.train),
            (&mut self.eval, &margin.eval, &reference.eval),
        ];
        for (examples, margin, reference) in parts {
            for ((example, margin), reference) in examples.iter_mut().zip(margin).zip(reference) {
                let m = |i: usize| beta * (margin[i] - reference[i]);
                example.margins = Some((m(0), m(1)));
            }
        }
    }
}

fn needs(config: &TrainConfig, loss: Option<&PreferenceLoss>) -> Needs {
    let named = || format!("loss_type {}", config.objective.loss_type());
    let transform = config.data.safety_transform;
    let of_costs = config.objective.loss_type() == LossType::Cost;
    let labels = if of_costs || loss.is_some_and(PreferenceLoss::needs_labels) {
        Some(named())
    } else {
        transform.needs_labels().then(|| format!("safety_transform {}", transform.name()))
    };
    let from_rows = loss.filter(|l| l.needs_margins() && config.objective.margin_model().is_none());
    Needs { safety_labels: labels, margins: from_rows.map(|_| named()) }
}

/// A cost model cannot learn from a pair whose safer response is the unsafe one.
fn refuse_contradictions(pairs: &[PreferencePair]) -> Result<(), RecipeError> {
    let contradicts = |pair: &&PreferencePair| pair.labels() == Some((true, false));
    let mut wrong = pairs.iter().filter(contradicts);
    let Some(first) = wrong.next() else { return Ok(()) };
    Err(RecipeError::input(format!(
        "{}: the safer response is labelled unsafe and the other one safe (so are {} more rows); correct the labels or leave \
         the rows out (bso data check lists contradictions)",
        first.origin,
        wrong.count()
    )))
}

fn into_examples<T: Into<Example>>(tokenised: Vec<T>) -> Vec<Example> {
    tokenised.into_iter().map(Into::into).collect()
}

/// Rows of all data sets, checked and mixed.
pub struct Gathered<T> {
    /// To train on, or to split.
    pub train: Vec<T>,
    /// The split to evaluate on, where one is named.
    pub eval: Option<Vec<T>>,
    /// The account of every row.
    pub ledger: Ledger,
    detected: String,
}

/// One of `load_pairs` and its siblings.
pub type Load<T> = fn(&Path, &LoadOptions, &dyn Observer) -> Result<Loaded<T>, DataError>;

/// Reads every data set through `load`; mixes them by weight if one has a weight.
///
/// # Errors
/// Everything that can be wrong with data, by file and row.
pub fn gather<T: Prompted>(
    config: &TrainConfig,
    needs: &Needs,
    observer: &dyn Observer,
    load: Load<T>,
) -> Result<Gathered<T>, RecipeError> {
    let data = &config.data;
    let read = |split: &dyn Fn(&DatasetSource) -> Option<String>| {
        let parts = data.datasets.iter().map(|source| {
            let options = LoadOptions {
                format: data.dataset_format,
                columns: data.columns.clone(),
                preference: data.preference,
                transform: data.safety_transform,
                needs: needs.clone(),
                skip_bad_rows: false,
                split: split(source),
            };
            let loaded = load(&source.path, &options, observer)?;
            let name = source.path.display().to_string();
            let name = options.split.map_or(name.clone(), |split| format!("{name}, split {split}"));
            Ok(Part { name, weight: source.weight.unwrap_or(1.0), loaded })
        });
        parts.collect::<Result<Vec<_>, DataError>>()
    };
    let seed = Seed::new(config.model.seed);
    let parts = read(&|source| source.split.clone().or_else(|| data.train_split.clone()))?;
    let detected = parts.iter().map(|part| {
        let found = &part.loaded.detected;
        format!("{} ({})", found.schema.name(), found.because)
    });
    let mut detected: Vec<String> = detected.collect();
    detected.dedup();
    let by_weight = data.datasets.iter().any(|source| source.weight.is_some());
    let (train, mut ledger) = mix(parts, by_weight, seed);
    let eval = match &data.test_split {
        None => None,
        Some(split) => {
            let (eval, held_out) = mix(read(&|_| Some(split.clone()))?, false, seed);
            ledger.absorb(held_out);
            Some(eval)
        }
    };
    Ok(Gathered { train, eval, ledger, detected: detected.join(", ") })
}

/// As [`gather`], of data sets that are trained on beside those of the configuration: whole, each in its own schema, as they are.
///
/// # Errors
/// As [`gather`].
pub fn gather_beside<T: Prompted>(
    config: &TrainConfig,
    datasets: &[DatasetSource],
    observer: &dyn Observer,
    load: Load<T>,
) -> Result<Gathered<T>, RecipeError> {
    let mut beside = config.clone();
    let data = &mut beside.data;
    data.datasets = datasets.to_vec();
    (data.train_split, data.test_split) = (None, None);
    (data.dataset_format, data.columns) = (None, Default::default());
    (data.preference, data.safety_transform) = (Preference::Better, SafetyTransform::None);
    gather(&beside, &Needs::default(), observer, load)
}

/// Splits by prompt before anything is cut, so that a prompt is on one side whatever the truncation.
fn split<T: Prompted>(
    gathered: Gathered<T>,
    config: &TrainConfig,
    tokenise: impl Fn(&[T], &mut Ledger) -> Result<Vec<Example>, RecipeError>,
) -> Result<Dataset, RecipeError> {
    let Gathered { train, eval, mut ledger, detected } = gathered;
    let (train, eval) = match eval {
        Some(eval) => (train, eval),
        None => split_by_prompt(train, config.data.eval_split, Seed::new(config.model.seed)),
    };
    let train = tokenise(&train, &mut ledger)?;
    let eval = if eval.is_empty() { Vec::new() } else { tokenise(&eval, &mut ledger)? };
    Ok(Dataset { train, eval, replay: Vec::new(), ledger, detected })
}
