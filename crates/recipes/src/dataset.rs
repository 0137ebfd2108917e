//! From the configured data file to training and held-out examples in tokens, every row accounted for.

use crate::RecipeError;
use crate::config::{ChatTemplate, LossType, TrainConfig};
use crate::example::{Example, mismatch};
use crate::reference::ReferenceLogProbs;
use bso_data::{
    ChatTokenizer, Ledger, LoadOptions, Loaded, Needs, Prompted, SftExample, TemplateChoice, Truncation,
    load_pairs, load_sft, load_unpaired, split_by_prompt, tokenise_pairs, tokenise_sft, tokenise_unpaired,
};
use bso_durable::{Observer, Seed};
use bso_objective::PreferenceLoss;

/// Examples ready for the model.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// To train on.
    pub train: Vec<Example>,
    /// Held out, by prompt.
    pub eval: Vec<Example>,
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
        let (data, path) = (&config.data, &config.data.dataset_name);
        let options = LoadOptions {
            format: data.dataset_format,
            columns: data.columns.clone(),
            preference: data.preference,
            transform: data.safety_transform,
            needs: needs(config, loss),
            skip_bad_rows: false,
        };
        let truncation = Truncation { max_length: data.max_length, mode: data.truncation_mode };
        let mut dataset = match config.objective.loss_type() {
            LossType::Nll => {
                split(load_sft(path, &options, observer)?, config, |examples: &[SftExample], ledger| {
                    Ok(into_examples(tokenise_sft(examples, tokenizer, truncation, ledger, observer)?))
                })?
            }
            LossType::Kto => split(load_unpaired(path, &options, observer)?, config, |examples, ledger| {
                let mut examples =
                    into_examples(tokenise_unpaired(examples, tokenizer, truncation, ledger, observer)?);
                mismatch(&mut examples, data.max_length);
                Ok(examples)
            })?,
            _ => split(load_pairs(path, &options, observer)?, config, |examples, ledger| {
                Ok(into_examples(tokenise_pairs(examples, tokenizer, truncation, ledger, observer)?))
            })?,
        };
        if dataset.train.is_empty() {
            return Err(RecipeError::input(format!(
                "{}: no example is left to train on ({}); see `bso data check`",
                path.display(),
                dataset.ledger
            )));
        }
        dataset.ledger.kept = dataset.train.len() + dataset.eval.len();
        Ok(dataset)
    }
}

impl Dataset {
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
    let labels = if loss.is_some_and(PreferenceLoss::needs_labels) {
        Some(named())
    } else {
        transform.needs_labels().then(|| format!("safety_transform {}", transform.name()))
    };
    let from_rows = loss.filter(|l| l.needs_margins() && config.objective.margin_model().is_none());
    Needs { safety_labels: labels, margins: from_rows.map(|_| named()) }
}

fn into_examples<T: Into<Example>>(tokenised: Vec<T>) -> Vec<Example> {
    tokenised.into_iter().map(Into::into).collect()
}

/// Splits by prompt before anything is cut, so that a prompt is on one side whatever the truncation.
fn split<T: Prompted>(
    loaded: Loaded<T>,
    config: &TrainConfig,
    tokenise: impl Fn(&[T], &mut Ledger) -> Result<Vec<Example>, RecipeError>,
) -> Result<Dataset, RecipeError> {
    let Loaded { examples, mut ledger, detected } = loaded;
    let (train, eval) = split_by_prompt(examples, config.data.eval_split, Seed::new(config.model.seed));
    let train = tokenise(&train, &mut ledger)?;
    let eval = if eval.is_empty() { Vec::new() } else { tokenise(&eval, &mut ledger)? };
    Ok(Dataset {
        train,
        eval,
        ledger,
        detected: format!("{} ({})", detected.schema.name(), detected.because),
    })
}
