//! The six models of a run: the actor and its frozen reference, the models that score, and the critics that start from these.

use crate::RecipeError;
use crate::config::{PpoLagSection, TrainConfig};
use crate::dataset::template_choice;
use crate::fitting::{check_finite, check_same_tokens, check_vocabulary, tell_of_padding};
use crate::loaded::tell_of_model;
use crate::policy;
use bso_data::ChatTokenizer;
use bso_durable::{Event, Observer};
use bso_model::{Decoder, Engine, ModelConfig, Reads, ScoreHead, ScoreKind, ScoreLayout};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A frozen model with a scalar head.
pub struct Scorer {
    /// The weights.
    pub decoder: Decoder,
    /// Its head, whose normaliser is applied where the model says so.
    pub head: ScoreHead,
}

/// All models of a run.
pub struct Models {
    /// Samples, and is trained.
    pub actor: Decoder,
    /// Frozen; the KL is taken against it.
    pub reference: Decoder,
    /// Frozen; scores what is sampled.
    pub reward: Scorer,
    /// The same for costs.
    pub cost: Scorer,
    /// Says of each token what reward may be expected before it; trained.
    pub reward_critic: Decoder,
    /// The same for costs.
    pub cost_critic: Decoder,
}

impl Models {
    /// Loads all of them and checks that they belong together.
    ///
    /// # Errors
    /// Weights that cannot be used, a model without a scalar head or of the other kind, another tokenizer.
    pub fn load(
        config: &TrainConfig,
        section: &PpoLagSection,
        (tokenizer, engine): (&ChatTokenizer, &Arc<Engine>),
        observer: &dyn Observer,
    ) -> Result<Self, RecipeError> {
        let actor_dir = &config.model.model_name_or_path;
        let loading = Loading { config, tokenizer, engine, observer };
        let scorers = [
            ("reward_model", &*section.reward_model, ScoreKind::Reward),
            ("cost_model", &*section.cost_model, ScoreKind::Cost),
        ];
        // Cheap first: what is wrong with a folder is said before any weight is read.
        check_vocabulary(tokenizer, &ModelConfig::from_dir(actor_dir)?, actor_dir)?;
        for (key, dir, kind) in scorers {
            loading.check_scorer(key, dir, kind)?;
        }
        let reference_dir = config.model.ref_model.as_deref().unwrap_or(actor_dir);
        check_vocabulary(tokenizer, &ModelConfig::from_dir(reference_dir)?, reference_dir)?;
        let started = Instant::now();
        let actor = policy::load(config, engine, observer)?;
        tell_of_model(&actor, actor_dir, started, observer);
        let reference = loading.frozen(reference_dir)?;
        if reference.config().score.is_some() {
            return Err(RecipeError::input(format!(
                "ref_model: {} has a scalar head; the reference is a causal language model",
                reference_dir.display()
            )));
        }
        let [(reward, reward_critic), (cost, cost_critic)] =
            [loading.scorer(scorers[0].1)?, loading.scorer(scorers[1].1)?];
        Ok(Self { actor, reference, reward, cost, reward_critic, cost_critic })
    }

    /// Longest sequence, in tokens, that every model can take.
    pub fn context(&self) -> usize {
        let all = [&self.actor, &self.reference, &self.reward.decoder, &self.cost.decoder];
        all.iter().map(|decoder| decoder.config().max_positions).min().unwrap_or(0)
    }

    /// Parameters that are trained.
    pub fn trained_count(&self) -> usize {
        [&self.actor, &self.reward_critic, &self.cost_critic].iter().map(|d| d.trained_count()).sum()
    }
}

struct Loading<'a> {
    config: &'a TrainConfig,
    tokenizer: &'a ChatTokenizer,
    engine: &'a Arc<Engine>,
    observer: &'a dyn Observer,
}

impl Loading<'_> {
    fn check_scorer(&self, key: &str, dir: &Path, kind: ScoreKind) -> Result<(), RecipeError> {
        let model = ModelConfig::from_dir(dir)?;
        let refuse = |problem: String| {
            Err(RecipeError::input(format!("{key}: {} is a {}, {problem}", dir.display(), model.class())))
        };
        let Some(head) = &model.score else {
            return refuse(format!(
                "which has no scalar head; train a {} model first (stage: {}), or name one (...ForSequenceClassification with \
                 num_labels 1, or ...ForScore)",
                kind.name(),
                kind.name()
            ));
        };
        if head.layout == ScoreLayout::SafeRlhf && head.kind != kind {
            return refuse(format!(
                "whose score_type is {}; name one of score_type {}",
                head.kind.name(),
                kind.name()
            ));
        }
        let choice = template_choice(&self.config.data.chat_template);
        let own = ChatTokenizer::load(&policy::tokenizer_folder(dir)?, &choice)?;
        check_same_tokens(self.tokenizer, &own, (key, dir))?;
        check_vocabulary(self.tokenizer, &model, dir)?;
        let source = |tokenizer: &ChatTokenizer| tokenizer.template().map(|t| t.source().to_owned());
        if source(self.tokenizer) != source(&own) {
            self.observer.event(Event::Warning(format!(
                "{key}: the chat template in {} is not the actor's; what is scored is written with the actor's",
                dir.display()
            )));
        }
        if let Reads::End { pad: Some(pad) } = model.reads()
            && self.tokenizer.end_of_turn_ids().contains(&pad)
        {
            tell_of_padding(pad, self.observer);
        }
        Ok(())
    }

    fn frozen(&self, dir: &Path) -> Result<Decoder, RecipeError> {
        let started = Instant::now();
        let mut decoder = Decoder::load(dir, self.engine.clone())?;
        tell_of_model(&decoder, dir, started, self.observer);
        check_finite(&decoder, &format!("in {}", dir.display()), "fetch or save the model again")?;
        decoder.compute_in(self.config.model.compute_dtype(), false)?;
        Ok(decoder)
    }

    /// The model in `dir`, frozen, and a critic with the same weights.
    fn scorer(&self, dir: &Path) -> Result<(Scorer, Decoder), RecipeError> {
        let decoder = self.frozen(dir)?;
        let mut critic = decoder.clone();
        critic.compute_in(self.config.model.compute_dtype(), true)?;
        let head = decoder.config().score.clone().unwrap_or_else(ScoreHead::sequence_classification);
        Ok((Scorer { decoder, head }, critic))
    }
}
