//! The model that is trained: loaded, given an adapter where one is asked for, saved and taken up again.

use crate::RecipeError;
use crate::config::TrainConfig;
use bso_durable::{Event, Observer, Seed};
use bso_model::{
    AdapterConfig, DType, Decoder, Engine, ModelConfig, ModelDirectory, NormaliserRule, ScoreHead,
    ScoreLayout,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Loads the model to start from, in the run's arithmetic: with an adapter where the configuration asks for one, the one
/// in its folder or a new one.
///
/// # Errors
/// Weights or an adapter that cannot be used, or that do not fit each other.
pub fn load(
    config: &TrainConfig,
    engine: &Arc<Engine>,
    observer: &dyn Observer,
) -> Result<Decoder, RecipeError> {
    let dir = &config.model.model_name_or_path;
    let note = |text: String| observer.event(Event::Note(text));
    let found = ModelDirectory::find(dir)?;
    let brings_head = found.has_score_adapter()?;
    new_head(config, &ModelConfig::from_dir(dir)?)?;
    let mut decoder = match (&config.adapter, found.adapter) {
        (None, adapter) => {
            if adapter.is_some() {
                note(format!("adapter     merged into its base {}", found.base.display()));
            }
            let mut decoder = Decoder::load(dir, engine.clone())?;
            fit_head(&mut decoder, config, &note)?;
            decoder
        }
        (Some(settings), adapter) => {
            let mut decoder = match config.quantisation {
                Some(kind) => Decoder::load_quantised(&found.base, kind, engine.clone())?,
                None => Decoder::load_base(&found.base, engine.clone())?,
            };
            match adapter {
                Some(adapter) => {
                    decoder.fit_adapters_head(&adapter)?;
                    refuse_adapter_without_head(config, &decoder)?;
                    decoder.load_adapter(&adapter)?;
                    decoder.set_adapter_dropout(settings.dropout);
                    if brings_head {
                        note(format!("head        the adapter's own, of a {}", decoder.config().class()));
                    }
                }
                None => {
                    fit_head(&mut decoder, config, &note)?;
                    let seed = Seed::new(config.model.seed).derive("adapter", 0);
                    decoder.attach_adapter(&with_trained_head(config, settings), seed)?;
                }
            }
            decoder
        }
    };
    if let Some(adapter) = decoder.adapter() {
        note(format!("adapter     {adapter}, on {}", found.base.display()));
        if let Some(kind) = decoder.quantisation() {
            note(format!("base        matrices of linear layers in {kind}"));
        }
    }
    if decoder.adapter().is_some() {
        decoder.freeze_base_in(config.model.compute_dtype())?;
    } else {
        decoder.compute_in(config.model.compute_dtype(), true)?;
    }
    Ok(decoder)
}

/// The adapter that the run trains, if one: new, or as it is in the folder of the model, but for its dropout.
///
/// # Errors
/// An adapter's folder that cannot be used.
pub fn adapter_settings(config: &TrainConfig) -> Result<Option<AdapterConfig>, RecipeError> {
    let Some(settings) = &config.adapter else { return Ok(None) };
    Ok(Some(match ModelDirectory::find(&config.model.model_name_or_path)?.adapter {
        Some(dir) => AdapterConfig { dropout: settings.dropout, ..AdapterConfig::from_dir(&dir)? },
        None => with_trained_head(config, settings),
    }))
}

/// A new adapter's settings: a scalar head is trained whole beside it, as PEFT does.
fn with_trained_head(config: &TrainConfig, settings: &AdapterConfig) -> AdapterConfig {
    let mut settings = settings.clone();
    let score = "score".to_owned();
    if config.objective.score_head().is_some() && !settings.modules_to_save.contains(&score) {
        settings.modules_to_save.push(score);
    }
    settings
}

/// A language model's adapter has no head for a run that trains a scalar one.
fn refuse_adapter_without_head(config: &TrainConfig, decoder: &Decoder) -> Result<(), RecipeError> {
    if config.objective.score_head().is_none() || decoder.config().score.is_some() {
        return Ok(());
    }
    let dir = config.model.model_name_or_path.display();
    Err(RecipeError::input(format!(
        "{dir}: the adapter is a language model's, and stage {} trains a scalar head, which it does not have; merge it into its \
         base (bso merge) and name the merged model",
        config.stage
    )))
}

/// Gives a run that trains a scalar head one, where the model has none.
fn fit_head(decoder: &mut Decoder, config: &TrainConfig, note: &dyn Fn(String)) -> Result<(), RecipeError> {
    match new_head(config, decoder.config())? {
        Some(head) => {
            decoder.replace_head(head, Seed::new(config.model.seed).derive("score head", 0))?;
            let (class, std) = (decoder.config().class(), decoder.config().initializer_range);
            note(format!(
                "head        new, of a {class}: weights normal with standard deviation {std}, by the seed"
            ));
        }
        None if decoder.config().score.is_some() => {
            note(format!("head        the model's own, of a {}", decoder.config().class()));
        }
        None => {}
    }
    Ok(())
}

/// The shape of what is trained: the model's, with a scalar head where the run gives it one.
///
/// # Errors
/// As [`new_head`].
pub fn trained_shape(config: &TrainConfig, model: ModelConfig) -> Result<ModelConfig, RecipeError> {
    Ok(match new_head(config, &model)? {
        Some(head) => model.with_score_head(head)?,
        None => model,
    })
}

/// The scalar head that the run puts in place of the model's own, if any.
///
/// # Errors
/// A head that does not go with the stage.
fn new_head(config: &TrainConfig, model: &ModelConfig) -> Result<Option<ScoreHead>, RecipeError> {
    let refuse = |problem: String| {
        let dir = config.model.model_name_or_path.display();
        Err(RecipeError::input(format!("{dir}: the model is a {}, {problem}", model.class())))
    };
    match (config.objective.score_head(), &model.score) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            refuse(format!("which has a scalar head; stage {} trains a causal language model", config.stage))
        }
        (Some((kind, _)), Some(head)) if head.layout == ScoreLayout::SafeRlhf && head.kind != kind => {
            refuse(format!(
                "whose score_type is {}; stage {} goes on from one of its own kind, or from a language model",
                head.kind.name(),
                config.stage
            ))
        }
        (Some(_), Some(head)) if head.layout == ScoreLayout::SafeRlhf && config.adapter.is_some() => refuse(
            "in safe-rlhf's layout, whose normaliser an adapter cannot hold; leave use_peft out, or start from a language model"
                .to_owned(),
        ),
        (Some(_), Some(_)) => Ok(None),
        (Some((_, ScoreLayout::SequenceClassification)), None) => {
            Ok(Some(ScoreHead::sequence_classification()))
        }
        (Some((kind, ScoreLayout::SafeRlhf)), None) => {
            let rule = NormaliserRule::ExponentialMovingAverage { momentum: 0.9 };
            Ok(Some(ScoreHead::safe_rlhf(kind, rule)))
        }
    }
}

/// Writes what is trained, in f32: all weights, or the adapter.
///
/// # Errors
/// The I/O error with the path.
pub fn save(decoder: &Decoder, dir: &Path, config: &TrainConfig) -> Result<(), RecipeError> {
    if decoder.adapter().is_none() {
        return Ok(decoder.save(dir, DType::F32)?);
    }
    let base = ModelDirectory::find(&config.model.model_name_or_path)?.base;
    // Absolute: PEFT takes a relative path from wherever it runs.
    Ok(decoder.save_adapter(dir, &base.canonicalize()?, DType::F32)?)
}

/// Takes up what [`save`] wrote into `dir`.
///
/// # Errors
/// Files that are damaged or of another model.
pub fn restore(decoder: &mut Decoder, dir: &Path, config: &TrainConfig) -> Result<(), RecipeError> {
    if decoder.adapter().is_some() {
        return Ok(decoder.load_adapter(dir)?);
    }
    // The new weights are read before the old ones go, on the host: a device never holds both.
    *decoder = Decoder::load_base(dir, decoder.engine().clone())?;
    Ok(decoder.compute_in(config.model.compute_dtype(), true)?)
}

/// Where a model's tokenizer is: an adapter's folder may leave it to its base.
///
/// # Errors
/// An adapter whose base is not there.
pub fn tokenizer_folder(dir: &Path) -> Result<PathBuf, RecipeError> {
    let found = ModelDirectory::find(dir)?;
    let own = found.adapter.is_none() || dir.join("tokenizer.json").is_file();
    Ok(if own { dir.to_owned() } else { found.base })
}
