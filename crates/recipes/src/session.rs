//! The loop of a run: steps, metrics, evaluations, checkpoints, until the end or the user's wish to stop.

use crate::RecipeError;
use crate::batches::BatchPlan;
use crate::best::{Best, Tracker, check_metric};
use crate::checkpoint::{self, Ingredients, Parts, Progress};
use crate::config::{Optim, Resume, SaveStrategy, TrainConfig};
use crate::dataset::Dataset;
use crate::evaluation::{figures_to_come, put_evaluation};
use crate::example::Example;
use crate::first_steps::{IdleTensors, check_margins};
use crate::loaded::log_memory;
use crate::objective::{Observation, TrainingObjective};
use crate::plan::largest_batch;
use crate::policy;
use crate::reference::ReferenceLogProbs;
use crate::run_log::RunLog;
use crate::schedule::Schedule;
use crate::score::score;
use crate::step::{MicroBatch, Step, StepMemory, StepOutcome, optimise};
use crate::step_metrics::put_observations;
use bso_data::ChatTokenizer;
use bso_durable::{Event, Interrupt, Observer, Seed, Silent, Task};
use bso_model::{DType, Decoder, Optimiser, OptimiserKind};
use bso_runs::{RunDirectory, StepMetrics, key, read_metrics};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

/// What a run works with; none of it changes.
pub struct Inputs<'a> {
    /// The configuration.
    pub config: &'a TrainConfig,
    /// What is minimised.
    pub objective: &'a TrainingObjective,
    /// Examples in tokens.
    pub dataset: &'a Dataset,
    /// The reference's log-probs of them; empty for SFT.
    pub reference: &'a ReferenceLogProbs,
    /// Likewise of the replayed pairs, as `train`.
    pub replay: &'a ReferenceLogProbs,
    /// Goes into checkpoints.
    pub tokenizer: &'a ChatTokenizer,
}

/// A run between two steps.
pub struct Session<'a> {
    run: &'a RunDirectory,
    inputs: &'a Inputs<'a>,
    ingredients: &'a Ingredients<'a>,
    plan: BatchPlan,
    schedule: Schedule,
    optimiser: Optimiser,
    memory: StepMemory,
    idle: IdleTensors,
    log: RunLog,
    progress: Progress,
    last_checkpoint: Option<u64>,
    /// Whether the evaluation after the last step is still to be done, in a resumed run as well.
    evaluation_due: bool,
    /// Where the configuration asks which evaluation is the best.
    best: Option<Tracker<'a>>,
    window: Window,
}

/// The checkpoint that the configuration asks to go on from; none to start anew.
///
/// # Errors
/// A run directory that cannot be read.
pub fn resumed_checkpoint(run: &RunDirectory, config: &TrainConfig) -> Result<Option<PathBuf>, RecipeError> {
    Ok(match &config.run.resume_from_checkpoint {
        Resume::No => None,
        Resume::Last => run.latest_checkpoint()?.map(|c| c.path),
        Resume::From(dir) => Some(dir.clone()),
    })
}

/// How a run ended that nobody stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ending {
    /// The best evaluation, where the configuration asks for it.
    pub best: Option<Best>,
    /// The optimiser step whose weights the run ends with.
    pub weights_of: u64,
}

/// Tokens and time since the last logged row.
struct Window {
    started: Instant,
    tokens: u64,
}

impl Window {
    fn new() -> Self {
        Self { started: Instant::now(), tokens: 0 }
    }

    fn rate(&self) -> f64 {
        self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}

impl<'a> Session<'a> {
    /// A fresh run, or the state of a checkpoint: its weights then replace those in `decoder`.
    ///
    /// # Errors
    /// A checkpoint that is damaged or of another run; a log that cannot be written.
    pub fn begin(
        run: &'a RunDirectory,
        inputs: &'a Inputs<'a>,
        ingredients: &'a Ingredients<'a>,
        decoder: &mut Decoder,
        observer: &dyn Observer,
    ) -> Result<Self, RecipeError> {
        let (config, examples) = (inputs.config, inputs.dataset.train.len());
        let (micro, accumulation) =
            (config.schedule.per_device_train_batch_size, config.schedule.gradient_accumulation_steps);
        let plan = BatchPlan::new(examples, micro, accumulation, Seed::new(config.model.seed));
        let total_steps = config.schedule.total_steps(plan.steps_per_epoch());
        let schedule = Schedule {
            peak: config.schedule.learning_rate,
            warmup_steps: config.schedule.warmup_steps(total_steps),
            total_steps,
            decay: config.schedule.lr_scheduler_type,
        };
        let (kind, decay) = (optimiser_kind(config), config.optimiser.weight_decay);
        let checkpoint = resumed_checkpoint(run, config)?;
        let (progress, optimiser) = match &checkpoint {
            None => (Progress::default(), Optimiser::new(kind, decay, decoder)?),
            Some(dir) => {
                let progress: Progress = checkpoint::load_progress(dir, ingredients)?;
                policy::restore(decoder, dir, config)?;
                observer.event(Event::Note(format!(
                    "resumed     from {}, step {}",
                    dir.display(),
                    progress.step
                )));
                (progress, checkpoint::load_optimiser(dir, kind, decay, decoder)?)
            }
        };
        if let Some(best) = &config.run.best {
            check_metric(best, &figures_to_come(inputs)?)?;
        }
        let log = RunLog::open(run, config, checkpoint.is_some().then_some(progress.step))?;
        let mut memory = StepMemory::new(decoder, config.model.gradient_checkpointing)?;
        let largest = largest_batch(config, decoder.config().reads(), inputs.dataset)?;
        log_memory(config, decoder, largest);
        memory.reserve(decoder, largest)?;
        let rows = if checkpoint.is_some() { read_metrics(&run.metrics())?.rows } else { Vec::new() };
        let mut session = Self {
            memory,
            idle: IdleTensors::default(),
            window: Window::new(),
            last_checkpoint: checkpoint.is_some().then_some(progress.step),
            run,
            inputs,
            ingredients,
            plan,
            schedule,
            optimiser,
            log,
            progress,
            evaluation_due: false,
            best: config.run.best.as_ref().map(|settings| Tracker::after(settings, &rows)),
        };
        // A Ctrl-C may have come before the evaluation after the checkpoint's step.
        let evaluated = rows.iter().any(|row| row.step() == session.progress.step && row.is_evaluation());
        session.evaluation_due = checkpoint.is_some() && session.evaluates_here() && !evaluated;
        Ok(session)
    }

    /// Whether an evaluation follows the step just done.
    fn evaluates_here(&self) -> bool {
        let (done, per_epoch) = (self.progress.step, self.plan.steps_per_epoch());
        let run = &self.inputs.config.run;
        let planned = done == self.schedule.total_steps || run.evaluates_after(done, per_epoch);
        planned && done > 0 && !self.inputs.dataset.eval.is_empty()
    }

    /// Whether no step is left: all are done, or no gain is expected of more.
    fn is_over(&self) -> bool {
        self.progress.step >= self.schedule.total_steps
            || self.best.as_ref().is_some_and(Tracker::has_waited_enough)
    }

    /// Optimiser steps done, those before a resume included.
    pub fn steps_done(&self) -> u64 {
        self.progress.step
    }

    /// Sequences that the policy computed, those before a resume included.
    pub fn sequences(&self) -> u64 {
        self.progress.sequences
    }

    /// Steps until the end; none if the user stopped it, with a checkpoint written.
    ///
    /// # Errors
    /// A figure that is not finite, a check that fails, a full disk. Earlier checkpoints stay.
    pub fn run_to_end(
        &mut self,
        decoder: &mut Decoder,
        interrupt: &Interrupt,
        observer: &dyn Observer,
    ) -> Result<Option<Ending>, RecipeError> {
        let run = &self.inputs.config.run;
        let per_epoch = self.plan.steps_per_epoch();
        let left = self.schedule.total_steps.saturating_sub(self.progress.step);
        let mut task = Task::start(observer, "training", Some(left), "steps");
        self.window = Window::new();
        while self.evaluation_due || !self.is_over() {
            if interrupt.is_raised() {
                self.checkpoint(decoder)?;
                return Ok(None);
            }
            if !self.evaluation_due {
                let outcome = self.step(decoder)?;
                task.advance(1, || self.detail(&outcome));
                self.evaluation_due = self.evaluates_here();
            }
            let done = self.progress.step;
            let last = done == self.schedule.total_steps;
            if !self.progress.pending.is_empty() && (done.is_multiple_of(run.logging_steps) || last) {
                self.log_training(per_epoch)?;
            }
            let before = self.best();
            if self.evaluation_due {
                match self.evaluate(decoder, interrupt, per_epoch) {
                    // The wish to stop stands: it is met above, and a resumed run evaluates first.
                    Err(RecipeError::Interrupted) => continue,
                    evaluated => evaluated?,
                }
                self.evaluation_due = false;
            }
            let is_best = self.keeps_the_best() && self.best() != before;
            // The weights of the last step stay in memory until they are written as the run's result.
            if (run.saves_after(done, per_epoch) || is_best) && !last {
                self.checkpoint(decoder)?;
                self.drop_superseded(before.filter(|_| is_best))?;
            }
        }
        drop(task);
        if !self.progress.pending.is_empty() {
            self.log_training(per_epoch)?;
        }
        self.log.finish()?;
        let weights_of = self.load_best(decoder, observer)?;
        Ok(Some(Ending { best: self.best(), weights_of }))
    }

    /// The best evaluation so far, where the configuration asks for it.
    fn best(&self) -> Option<Best> {
        self.best.as_ref().and_then(Tracker::best)
    }

    /// Whether every best evaluation gets a checkpoint.
    fn keeps_the_best(&self) -> bool {
        let run = &self.inputs.config.run;
        run.save_strategy == SaveStrategy::Best || run.best.as_ref().is_some_and(|best| best.load)
    }

    /// Removes the checkpoint of an evaluation that was the best, where it was written for no other reason.
    fn drop_superseded(&self, best: Option<Best>) -> Result<(), RecipeError> {
        let run = &self.inputs.config.run;
        let only_best = |best: &Best| {
            run.save_strategy != SaveStrategy::Best
                && !run.saves_after(best.step, self.plan.steps_per_epoch())
        };
        match best.filter(only_best) {
            Some(best) => Ok(self.run.remove_checkpoint(best.step)?),
            None => Ok(()),
        }
    }

    /// Takes up the weights of the best evaluation, where that is asked for; the step whose weights the run ends with.
    fn load_best(&self, decoder: &mut Decoder, observer: &dyn Observer) -> Result<u64, RecipeError> {
        let last = self.progress.step;
        let (Some(best), Some(settings)) = (self.best(), &self.inputs.config.run.best) else {
            return Ok(last);
        };
        let stopped = if last < self.schedule.total_steps {
            format!("; stopped after step {last} for want of a better one")
        } else {
            String::new()
        };
        let (step, metric) = (best.step, &settings.metric);
        observer
            .event(Event::Note(format!("best        {metric} {:.6} at step {step}{stopped}", best.value)));
        if !settings.load || step == last {
            return Ok(last);
        }
        let Some(checkpoint) = self.run.complete_checkpoint(step)? else {
            observer.event(Event::Warning(format!(
                "{} is not there or not complete: the run ends with the weights of its last step instead of the best",
                self.run.checkpoint(step).display()
            )));
            return Ok(last);
        };
        policy::restore(decoder, &checkpoint.path, self.inputs.config)?;
        Ok(step)
    }

    fn step(&mut self, decoder: &mut Decoder) -> Result<StepOutcome, RecipeError> {
        let (dataset, reference) = (self.inputs.dataset, &self.inputs.reference.train);
        let index = self.progress.step;
        let planned = self.plan.step(index);
        let mut order = self.plan.beside(dataset.replay.len(), self.plan.seen_before(index));
        let replayed = planned.iter().map(|micro| order.by_ref().take(micro.len()).collect::<Vec<_>>());
        let replay = replayed.filter(|micro| !micro.is_empty());
        let step = Step {
            micro_batches: planned.iter().map(|m| micro_batch(m, &dataset.train, reference)).collect(),
            replay: replay.map(|m| micro_batch(&m, &dataset.replay, &self.inputs.replay.train)).collect(),
            rate: self.schedule.rate(index),
            max_grad_norm: self.inputs.config.optimiser.max_grad_norm,
            dropout: Seed::new(self.inputs.config.model.seed).derive("dropout", index),
        };
        let first = index == 0 && self.inputs.config.model.ref_model.is_none() && !decoder.drops_out()?;
        let narrow = decoder.dtype() == DType::Bf16 || self.inputs.config.model.tf32;
        let on = (decoder.engine().device(), narrow);
        let check =
            |observations: &[Observation]| if first { check_margins(observations, on) } else { Ok(()) };
        let started = Instant::now();
        let outcome =
            optimise(decoder, &mut self.optimiser, &mut self.memory, self.inputs.objective, &step, check)?;
        log::debug!(
            "step {}: {} tokens in {:.4} s, gradient norm {:.6e}",
            index + 1,
            outcome.tokens,
            started.elapsed().as_secs_f64(),
            outcome.grad_norm
        );
        self.idle.look(self.memory.gradients(), decoder, outcome.grad_norm > 0.0)?;
        self.progress.step += 1;
        self.progress.tokens += outcome.tokens as u64;
        self.progress.sequences += outcome.sequences as u64;
        self.progress.grad_norm = outcome.grad_norm;
        self.progress.pending.extend(outcome.observations.iter().cloned());
        self.progress.replay.extend(outcome.replay.iter().map(|o| o.loss));
        self.window.tokens += outcome.tokens as u64;
        Ok(outcome)
    }

    /// The progress line: loss, accuracy, margin, tokens per second.
    fn detail(&self, outcome: &StepOutcome) -> String {
        let mut row = StepMetrics::new(self.progress.step, 0.0);
        put_observations(&mut row, "", &outcome.observations, self.beta());
        let figure = |label: &str, name: &str| row.get(name).map(|v| format!("{label} {v:.4}"));
        let figures = [
            figure("loss", key::LOSS),
            figure("accuracy", key::REWARDS_ACCURACIES),
            figure("margin", key::REWARDS_MARGINS),
            Some(format!("{:.0} tokens/s", self.window.rate())),
        ];
        figures.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }

    fn beta(&self) -> f64 {
        self.inputs.config.objective.beta()
    }

    fn row(&self, per_epoch: u64) -> StepMetrics {
        StepMetrics::new(self.progress.step, self.progress.step as f64 / per_epoch.max(1) as f64)
    }

    fn log_training(&mut self, per_epoch: u64) -> Result<(), RecipeError> {
        let mut row = self.row(per_epoch);
        put_observations(&mut row, "", &self.progress.pending, self.beta());
        let replay = std::mem::take(&mut self.progress.replay);
        if !replay.is_empty() {
            row.put(key::REPLAY_LOSS, replay.iter().sum::<f64>() / replay.len() as f64);
        }
        row.put(key::GRAD_NORM, self.progress.grad_norm);
        row.put(key::LEARNING_RATE, self.schedule.rate(self.progress.step.saturating_sub(1)));
        row.put_count(key::NUM_TOKENS, self.progress.tokens);
        row.put(key::TOKENS_PER_SECOND, self.window.rate());
        self.progress.pending.clear();
        self.window = Window::new();
        self.log.append(&row)
    }

    fn evaluate(
        &mut self,
        decoder: &Decoder,
        interrupt: &Interrupt,
        per_epoch: u64,
    ) -> Result<(), RecipeError> {
        let examples = &self.inputs.dataset.eval;
        let started = Instant::now();
        let policy = score(decoder, examples, "evaluating", interrupt, &Silent)?;
        self.progress.sequences += policy.iter().map(|p| p.len() as u64).sum::<u64>();
        let mut row = self.row(per_epoch);
        put_evaluation(&mut row, self.inputs, &policy)?;
        row.put(key::EVAL_RUNTIME, started.elapsed().as_secs_f64());
        log::info!(
            "step {}: {} held-out examples evaluated in {:.2} s",
            self.progress.step,
            examples.len(),
            started.elapsed().as_secs_f64()
        );
        self.window = Window::new();
        if let Some(tracker) = &mut self.best {
            tracker.observe(&row);
        }
        self.log.append(&row)
    }

    fn checkpoint(&mut self, decoder: &Decoder) -> Result<(), RecipeError> {
        if self.last_checkpoint == Some(self.progress.step) {
            return Ok(());
        }
        let started = Instant::now();
        self.log.sync()?;
        let parts = Parts {
            decoder,
            optimiser: &self.optimiser,
            tokenizer: self.inputs.tokenizer,
            beside: Vec::new(),
        };
        let progress = (self.progress.step, &self.progress);
        let written = checkpoint::save(self.run, progress, self.ingredients, &parts)?;
        log::info!("{} written in {:.2} s", written.path.display(), started.elapsed().as_secs_f64());
        self.last_checkpoint = Some(self.progress.step);
        if let Some(limit) = self.inputs.config.run.save_total_limit.and_then(NonZeroUsize::new) {
            let removed = self.run.prune_checkpoints(limit, self.best().map(|best| best.step))?;
            removed.iter().for_each(|step| log::info!("{} removed", self.run.checkpoint(*step).display()));
        }
        self.window = Window::new();
        Ok(())
    }
}

fn micro_batch<'a>(micro: &[usize], examples: &'a [Example], reference: &'a [Vec<f64>]) -> MicroBatch<'a> {
    MicroBatch {
        examples: micro.iter().map(|i| &examples[*i]).collect(),
        reference: micro.iter().filter_map(|i| reference.get(*i).map(Vec::as_slice)).collect(),
    }
}

/// The rule of the update with its constants.
pub(crate) fn optimiser_kind(config: &TrainConfig) -> OptimiserKind {
    let o = &config.optimiser;
    match o.optim {
        Optim::AdamW => {
            OptimiserKind::AdamW { beta1: o.adam_beta1, beta2: o.adam_beta2, epsilon: o.adam_epsilon }
        }
        Optim::RmsProp => OptimiserKind::RMSPROP,
        Optim::Sgd => OptimiserKind::Sgd,
    }
}
