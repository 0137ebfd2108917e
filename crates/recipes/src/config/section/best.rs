//! Which evaluation counts as the best, and what follows from it.

use super::super::choices::SaveStrategy;
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::super::value::Setting;
use super::Settings;

/// The metric that tells the best weights of a run. Names and meanings are those of transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct BestModel {
    /// Its full name in an evaluation's row, such as `eval_loss`.
    pub metric: String,
    /// Whether more is better.
    pub greater: bool,
    /// Whether a run ends with the best weights in place of the last.
    pub load: bool,
    /// Evaluations without a gain after which a run stops; none: it never does.
    pub patience: Option<u64>,
    /// The least gain that counts for `patience`.
    pub threshold: f64,
}

impl BestModel {
    /// None where nothing asks for the best.
    pub(in super::super) fn read(r: &Resolver) -> Result<Option<Self>, ConfigError> {
        let (load, patience) =
            (r.bool("load_best_model_at_end")?, r.optional_integer("early_stopping_patience")?);
        let saves_best = r.choice::<SaveStrategy>("save_strategy")? == SaveStrategy::Best;
        let metric = match r.optional_text("metric_for_best_model")? {
            Some(metric) => metric,
            None if load || patience.is_some() || saves_best => "loss".to_owned(),
            None => return Ok(None),
        };
        let greater = r.optional_bool("greater_is_better")?.unwrap_or(!metric.ends_with("loss"));
        let metric = if metric.starts_with("eval_") { metric } else { format!("eval_{metric}") };
        Ok(Some(Self { metric, greater, load, patience, threshold: r.real("early_stopping_threshold")? }))
    }

    pub(in super::super) fn write(best: Option<&Self>, out: &mut Settings) {
        let Some(best) = best else { return };
        out.bool("load_best_model_at_end", best.load);
        out.put("metric_for_best_model", Setting::Text(best.metric.clone()));
        out.bool("greater_is_better", best.greater);
        out.optional_integer("early_stopping_patience", best.patience);
        out.real("early_stopping_threshold", best.threshold);
    }
}
