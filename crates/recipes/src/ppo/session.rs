//! The loop of a `ppo_lag` run: sample, score, move the multiplier, update; log, checkpoint, until the end or the user's wish
//! to stop.

use super::data::{PpoData, PromptTokens};
use super::figures::{StepFigures, put_steps};
use super::models::Models;
use super::rollout::{self, Frozen, Rollout, Sampling};
use super::update::{Trainee, Trainees, Update, UpdateMemory, update};
use crate::RecipeError;
use crate::batches::BatchPlan;
use crate::checkpoint::{self, Ingredients, Parts};
use crate::config::{PpoLagSection, TrainConfig};
use crate::policy;
use crate::run_log::RunLog;
use crate::schedule::Schedule;
use crate::session::{optimiser_kind, resumed_checkpoint};
use bso_data::ChatTokenizer;
use bso_durable::{Event, Interrupt, Observer, Seed, Task};
use bso_model::{Decoder, Optimiser};
use bso_objective::{Multiplier, Ppo, Targets};
use bso_runs::{RunDirectory, StepMetrics, key};
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

const REWARD_CRITIC: &str = "reward_critic";
const COST_CRITIC: &str = "cost_critic";

/// So many responses without one that ends are no accident.
const NEVER_ENDS: u64 = 32;

/// What a run works with; none of it changes.
pub struct Inputs<'a> {
    /// The configuration.
    pub config: &'a TrainConfig,
    /// Its part for this stage.
    pub section: &'a PpoLagSection,
    /// Prompts, and rows to imitate.
    pub data: &'a PpoData,
    /// The actor's.
    pub tokenizer: &'a ChatTokenizer,
}

/// Where a run stands between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PpoProgress {
    /// Steps done: responses sampled and updated on.
    step: u64,
    /// Tokens of all sequences that were trained on.
    tokens: u64,
    /// Sequences that any of the models computed.
    forwards: u64,
    log_lambda: f64,
    /// The costs in the multiplier's window, the oldest first.
    costs: Vec<f64>,
    /// Responses sampled.
    sampled: u64,
    /// Those that ended by themselves.
    ended: u64,
    /// Steps since the last logged row.
    pending: Vec<StepFigures>,
}

/// A run between two steps.
pub struct PpoSession<'a> {
    run: &'a RunDirectory,
    inputs: &'a Inputs<'a>,
    ingredients: &'a Ingredients<'a>,
    plan: BatchPlan,
    ptx_plan: BatchPlan,
    schedule: Schedule,
    critic_schedule: Schedule,
    frozen: Frozen,
    trained: Trainees,
    memory: UpdateMemory,
    ppo: Ppo,
    multiplier: Multiplier,
    log: RunLog,
    progress: PpoProgress,
    last_checkpoint: Option<u64>,
    since: (Instant, u64),
}

impl<'a> PpoSession<'a> {
    /// A fresh run, or the state of a checkpoint.
    ///
    /// # Errors
    /// A checkpoint that is damaged or of another run; a log that cannot be written.
    pub fn begin(
        run: &'a RunDirectory,
        inputs: &'a Inputs<'a>,
        ingredients: &'a Ingredients<'a>,
        models: Models,
        observer: &dyn Observer,
    ) -> Result<Self, RecipeError> {
        let (config, section) = (inputs.config, inputs.section);
        let (micro, accumulation) =
            (config.schedule.per_device_train_batch_size, config.schedule.gradient_accumulation_steps);
        let seed = Seed::new(config.model.seed);
        let plan = BatchPlan::new(inputs.data.prompts.len(), micro, accumulation, seed);
        let ptx_plan = BatchPlan::new(inputs.data.ptx.len(), micro, accumulation, seed.derive("ptx", 0));
        let total_steps = config.schedule.total_steps(plan.steps_per_epoch());
        let schedule = config.schedule.schedule(total_steps);
        let critic_schedule = Schedule {
            peak: section.critic_learning_rate,
            warmup_steps: 0,
            decay: section.critic_lr_scheduler_type,
            ..schedule
        };
        let (ppo, mut multiplier) = section.build()?;
        let (frozen, models) = models.split();
        let checkpoint = resumed_checkpoint(run, config)?;
        let (progress, trained) = match &checkpoint {
            None => (PpoProgress::fresh(&multiplier), fresh(models, config)?),
            Some(dir) => {
                let progress: PpoProgress = checkpoint::load_progress(dir, ingredients)?;
                multiplier.restore(progress.log_lambda, &progress.costs)?;
                observer.event(Event::Note(format!(
                    "resumed     from {}, step {}",
                    dir.display(),
                    progress.step
                )));
                (progress, restored(models, config, dir)?)
            }
        };
        let at = checkpoint.is_some().then_some(progress.step);
        Ok(Self {
            log: RunLog::open(run, config, at)?,
            memory: UpdateMemory::new(config.model.gradient_checkpointing),
            last_checkpoint: at,
            since: (Instant::now(), 0),
            run,
            inputs,
            ingredients,
            plan,
            ptx_plan,
            schedule,
            critic_schedule,
            frozen,
            trained,
            ppo,
            multiplier,
            progress,
        })
    }

    /// Steps done, those before a resume included.
    pub fn steps_done(&self) -> u64 {
        self.progress.step
    }

    /// Sequences that any of the models computed.
    pub fn forwards(&self) -> u64 {
        self.progress.forwards
    }

    /// The model that is trained.
    pub fn actor(&self) -> &Decoder {
        &self.trained.actor.decoder
    }

    /// Steps until the end; false if the user stopped it, with a checkpoint written.
    ///
    /// # Errors
    /// A figure that is not finite, an actor that never ends, a full disk. Earlier checkpoints stay.
    pub fn run_to_end(
        &mut self,
        interrupt: &Interrupt,
        observer: &dyn Observer,
    ) -> Result<bool, RecipeError> {
        let run = &self.inputs.config.run;
        let (per_epoch, total) = (self.plan.steps_per_epoch(), self.schedule.total_steps);
        let left = total.saturating_sub(self.progress.step);
        let mut task = Task::start(observer, "training", Some(left), "steps");
        self.since = (Instant::now(), self.progress.tokens);
        while self.progress.step < total {
            match self.step(interrupt) {
                // What was sampled is thrown away: a resumed run samples the same again.
                Err(RecipeError::Interrupted) => {
                    self.checkpoint()?;
                    return Ok(false);
                }
                done => done?,
            }
            task.advance(1, || self.detail());
            let done = self.progress.step;
            if done.is_multiple_of(run.logging_steps) || done == total {
                self.log_steps()?;
            }
            if run.saves_after(done, per_epoch) && done < total {
                self.checkpoint()?;
            }
        }
        drop(task);
        if !self.progress.pending.is_empty() {
            self.log_steps()?;
        }
        self.log.finish()?;
        Ok(true)
    }

    fn step(&mut self, interrupt: &Interrupt) -> Result<(), RecipeError> {
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        let rollouts = self.rollouts(interrupt)?;
        self.refuse_endless(&rollouts)?;
        let targets: Vec<Targets> =
            rollouts.iter().map(|r| self.ppo.targets(&r.episode())).collect::<Result<_, _>>()?;
        let costs: Vec<f64> = rollouts.iter().map(|r| r.cost).collect();
        let episode_cost = self.multiplier.update(&costs)?;
        let (data, section, config) = (self.inputs.data, self.inputs.section, self.inputs.config);
        let index = self.progress.step;
        let ptx: Vec<usize> =
            if data.ptx.is_empty() { Vec::new() } else { self.ptx_plan.step(index).concat() };
        let asked = Update {
            ppo: &self.ppo,
            lambda: self.multiplier.lambda(),
            rollouts: &rollouts,
            targets: &targets,
            ptx: ptx.iter().map(|i| &data.ptx[*i]).collect(),
            ptx_coeff: section.ptx_coeff,
            micro: config.schedule.per_device_train_batch_size,
            rate: self.schedule.rate(index),
            critic_rate: self.critic_schedule.rate(index),
            max_grad_norm: config.optimiser.max_grad_norm,
        };
        let mut outcome = update(&mut self.trained, &mut self.memory, &asked)?;
        for _ in 1..section.update_iters {
            outcome = update(&mut self.trained, &mut self.memory, &asked)?;
        }
        let trained_on = rollouts.iter().map(|r| r.sequence.len()).sum::<usize>()
            + asked.ptx.iter().map(|example| example.tokens()).sum::<usize>();
        let lambda = (asked.lambda, episode_cost);
        let progress = &mut self.progress;
        progress.pending.push(StepFigures::of(&rollouts, &outcome, lambda, section.ptx_coeff));
        progress.step += 1;
        // Sampled; read by both scorers, actor, reference and critics; read again by actor and critics in each update.
        progress.forwards += rollouts.len() as u64 * (7 + 3 * section.update_iters);
        progress.forwards += asked.ptx.iter().map(|example| example.scored().count() as u64).sum::<u64>()
            * section.update_iters;
        progress.tokens += trained_on as u64;
        (progress.log_lambda, progress.costs) = self.multiplier.state();
        Ok(())
    }

    /// The step's responses. They follow from the actor, the seed and the step's number alone.
    fn rollouts(&self, interrupt: &Interrupt) -> Result<Vec<Rollout>, RecipeError> {
        let index = self.progress.step;
        let prompts: Vec<&PromptTokens> =
            self.plan.step(index).concat().into_iter().map(|i| &self.inputs.data.prompts[i]).collect();
        let sampling = Sampling {
            stop_ids: self.inputs.tokenizer.end_of_turn_ids(),
            seed: Seed::new(self.inputs.config.model.seed).derive("rollout", index).rng().random(),
        };
        let sampled = rollout::sample(self.actor(), &prompts, sampling, interrupt)?;
        rollout::observe((&self.trained, &self.frozen), &prompts, sampled, interrupt)
    }

    /// A response that is cut off is nothing that a reward model was trained on; a few are usual.
    fn refuse_endless(&mut self, rollouts: &[Rollout]) -> Result<(), RecipeError> {
        self.progress.sampled += rollouts.len() as u64;
        self.progress.ended += rollouts.iter().filter(|r| r.ended).count() as u64;
        let PpoProgress { sampled, ended, .. } = self.progress;
        if ended > 0 || sampled < NEVER_ENDS {
            return Ok(());
        }
        let longest = rollouts.iter().map(|r| r.sequence.response.len()).max().unwrap_or(0);
        Err(RecipeError::failed(format!(
            "none of the {sampled} responses sampled so far came to an end (the longest of this step has {longest} tokens), and \
             the scores of cut responses mean little; start from a model that was fine-tuned to end its turns (stage: sft) with \
             the same chat_template, or raise max_new_tokens and max_length"
        )))
    }

    /// The progress line.
    fn detail(&self) -> String {
        let Some(last) = self.progress.pending.last() else { return String::new() };
        let figures = [
            ("reward", key::REWARD),
            ("cost", key::COST),
            ("lambda", key::LAMBDA),
            ("kl", key::KL),
            ("tokens", key::MEAN_GENERATED_LENGTH),
        ];
        let figures =
            figures.into_iter().filter_map(|(label, name)| Some(format!("{label} {:.3}", last.get(name)?)));
        figures.collect::<Vec<_>>().join("  ")
    }

    fn log_steps(&mut self) -> Result<(), RecipeError> {
        let (step, per_epoch) = (self.progress.step, self.plan.steps_per_epoch().max(1));
        let mut row = StepMetrics::new(step, step as f64 / per_epoch as f64);
        put_steps(&mut row, &self.progress.pending);
        row.put(key::LEARNING_RATE, self.schedule.rate(step.saturating_sub(1)));
        row.put(key::CRITIC_LEARNING_RATE, self.critic_schedule.rate(step.saturating_sub(1)));
        row.put_count(key::NUM_TOKENS, self.progress.tokens);
        let (started, tokens) = self.since;
        let seconds = started.elapsed().as_secs_f64().max(1e-9);
        row.put(key::TOKENS_PER_SECOND, (self.progress.tokens - tokens) as f64 / seconds);
        self.progress.pending.clear();
        self.since = (Instant::now(), self.progress.tokens);
        self.log.append(&row)
    }

    fn checkpoint(&mut self) -> Result<(), RecipeError> {
        let step = self.progress.step;
        if self.last_checkpoint == Some(step) {
            return Ok(());
        }
        self.log.sync()?;
        let Trainees { actor, reward_critic, cost_critic } = &self.trained;
        let parts = Parts {
            decoder: &actor.decoder,
            optimiser: &actor.optimiser,
            tokenizer: self.inputs.tokenizer,
            beside: vec![
                (REWARD_CRITIC, &reward_critic.decoder, &reward_critic.optimiser),
                (COST_CRITIC, &cost_critic.decoder, &cost_critic.optimiser),
            ],
        };
        checkpoint::save(self.run, (step, &self.progress), self.ingredients, &parts)?;
        self.last_checkpoint = Some(step);
        if let Some(limit) = self.inputs.config.run.save_total_limit.and_then(NonZeroUsize::new) {
            self.run.prune_checkpoints(limit, None)?;
        }
        self.since = (Instant::now(), self.progress.tokens);
        Ok(())
    }
}

impl PpoProgress {
    fn fresh(multiplier: &Multiplier) -> Self {
        let (log_lambda, costs) = multiplier.state();
        Self { step: 0, tokens: 0, forwards: 0, log_lambda, costs, sampled: 0, ended: 0, pending: Vec::new() }
    }
}

/// Actor and critics at their start. The critics have no weight decay, as in safe-rlhf's run scripts.
fn fresh([actor, reward, cost]: [Decoder; 3], config: &TrainConfig) -> Result<Trainees, RecipeError> {
    let of = |decoder: Decoder, decay: f64| {
        let optimiser = Optimiser::new(optimiser_kind(config), decay, &decoder)?;
        Trainee::new(decoder, optimiser)
    };
    Ok(Trainees {
        actor: of(actor, config.optimiser.weight_decay)?,
        reward_critic: of(reward, 0.0)?,
        cost_critic: of(cost, 0.0)?,
    })
}

/// The same as they stand in the checkpoint in `dir`.
fn restored(
    [mut actor, reward, cost]: [Decoder; 3],
    config: &TrainConfig,
    dir: &Path,
) -> Result<Trainees, RecipeError> {
    policy::restore(&mut actor, dir, config)?;
    let optimiser = |dir: &Path, decay: f64, decoder: &Decoder| {
        checkpoint::load_optimiser(dir, optimiser_kind(config), decay, decoder)
    };
    let critic = |start: Decoder, name: &str| {
        let dir = dir.join(name);
        let mut decoder = Decoder::load(&dir, start.engine().clone())?;
        drop(start);
        decoder.compute_in(config.model.compute_dtype(), true)?;
        let optimiser = optimiser(&dir, 0.0, &decoder)?;
        Trainee::new(decoder, optimiser)
    };
    let of_actor = optimiser(dir, config.optimiser.weight_decay, &actor)?;
    Ok(Trainees {
        reward_critic: critic(reward, REWARD_CRITIC)?,
        cost_critic: critic(cost, COST_CRITIC)?,
        actor: Trainee::new(actor, of_actor)?,
    })
}
