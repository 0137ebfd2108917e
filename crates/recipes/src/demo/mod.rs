//! `bso demo`: the whole pipeline on SafeWorld, through the same files and the same training as any other run.
//! World -> supervised model -> every method from it -> exact evaluation -> table and report.

mod files;
mod measure;
mod method;
mod page;

pub use bso_runs::report::Estimate;
pub use method::Method;
pub use page::Line;

use crate::RecipeError;
use crate::config;
use crate::train::train;
use bso_durable::{Event, Interrupt, Observer};
use bso_model::{Engine, ModelError};
use bso_runs::report::write_report;
use bso_world::{PreferenceConfig, Prompt};
use measure::Measured;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Width of the decoder, a multiple of 32.
    pub hidden: usize,
    /// Its layers.
    pub layers: usize,
    /// Rows of supervised text.
    pub sft_rows: usize,
    /// Passes over it.
    pub sft_epochs: u32,
    /// Preference pairs.
    pub pairs: usize,
    /// Share of safety labels that are flipped, 0 to 0.5.
    pub safety_noise: f64,
    /// Share of preferences that are flipped, 0 to 0.5.
    pub preference_noise: f64,
    /// Passes over them.
    pub preference_epochs: u32,
    /// Learning rate of every method.
    pub learning_rate: f64,
}

impl Default for Sizes {
    /// Made to end within three minutes on two cores.
    fn default() -> Self {
        Self {
            hidden: 96,
            layers: 2,
            sft_rows: 32_000,
            sft_epochs: 1,
            pairs: 6_000,
            safety_noise: 0.0,
            preference_noise: 0.0,
            preference_epochs: 1,
            learning_rate: 5e-4,
        }
    }
}

impl Sizes {
    fn pairs(&self) -> PreferenceConfig {
        PreferenceConfig {
            pairs: self.pairs,
            safety_noise: self.safety_noise,
            preference_noise: self.preference_noise,
            ..PreferenceConfig::default()
        }
    }
}

/// What the demo is asked to do.
#[derive(Clone, Debug)]
pub struct DemoTask {
    /// Where everything goes.
    pub output_dir: PathBuf,
    /// The first seed.
    pub seed: u64,
    /// Seeds run one after another and pooled in the table.
    pub seeds: u64,
    /// What is compared.
    pub methods: Vec<Method>,
    /// Sizes.
    pub sizes: Sizes,
    /// Threads; none: one per core.
    pub num_threads: Option<usize>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct DemoOutcome {
    /// The reference, the optimum, then the methods.
    pub lines: Vec<Line>,
    /// The page.
    pub report: PathBuf,
}

/// What one seed gave.
struct SeedResult {
    prompts: Vec<Prompt>,
    reference_candidates: Vec<Vec<f64>>,
    /// The reference, then the methods.
    measured: Vec<(String, Measured, Option<Cost>)>,
}

/// What a method took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    seconds: f64,
    forwards: u64,
}

/// Runs the demo.
///
/// # Errors
/// A folder that cannot be written; [`RecipeError::Interrupted`].
pub fn demo(
    task: &DemoTask,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<DemoOutcome, RecipeError> {
    let engine = Arc::new(Engine::cpu(task.num_threads).map_err(ModelError::from)?);
    let mut results: Vec<SeedResult> = Vec::new();
    for seed in seeds(task.seed, task.seeds.max(1)) {
        let dir = task.output_dir.join(format!("seed-{seed}"));
        results.push(one_seed(task, &dir, seed, &engine, (interrupt, observer))?);
    }
    let lines = lines(&task.methods, &results)?;
    let report = task.output_dir.join("report.html");
    let first = &results[0];
    let greedy: Vec<(String, Vec<String>)> =
        first.measured.iter().map(|(name, measured, _)| (name.clone(), measured.greedy.clone())).collect();
    let data = page::page(&page::Page {
        dir: &task.output_dir.join(format!("seed-{}", task.seed)),
        lines: &lines,
        prompts: &first.prompts,
        greedy: &greedy,
        seeds: results.len() as u64,
        sizes: &task.sizes,
        methods: &task.methods,
    })?;
    write_report(&report, &data)?;
    bso_durable::write_json(&task.output_dir.join("report.json"), &data)?;
    Ok(DemoOutcome { lines, report })
}

/// `count` seeds from `first` on; behind the largest comes 0.
fn seeds(first: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |i| first.wrapping_add(i))
}

fn one_seed(
    task: &DemoTask,
    dir: &Path,
    seed: u64,
    engine: &Arc<Engine>,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<SeedResult, RecipeError> {
    bso_durable::ensure_dir(dir)?;
    let world = files::write(dir, (&task.methods, &task.sizes), seed, engine)?;
    for Method { name, .. } in &task.methods {
        // A setting that cannot be is refused before anything is trained.
        config::load(&dir.join(format!("{name}.yaml")), &[])?;
    }
    let prompts = world.held_out().to_vec();
    let mut quiet = Quiet { observer, of: String::new() };
    let mut run = |name: &str| -> Result<Cost, RecipeError> {
        quiet.of = format!("seed {seed}, {name}");
        let overrides: Vec<(String, String)> =
            task.num_threads.map(|n| ("num_threads".to_owned(), n.to_string())).into_iter().collect();
        let resolved = config::load(&dir.join(format!("{name}.yaml")), &overrides)?;
        let trained = train(&resolved.config, interrupt, &quiet)?;
        let cost = Cost { seconds: trained.seconds, forwards: trained.forwards };
        if trained.interrupted { Err(RecipeError::Interrupted) } else { Ok(cost) }
    };
    let Cost { seconds, .. } = run("sft")?;
    observer.event(Event::Note(format!("seed {seed}: supervised model trained in {seconds:.0} s")));
    let reference = measure::open(&dir.join("sft"), engine)?;
    let reference_candidates = measure::candidate_log_probs(&reference, &prompts)?;
    let measured = measure::measure(&reference, &prompts, &reference_candidates, seed, interrupt)?;
    let mut all = vec![("reference".to_owned(), measured, None)];
    for Method { name, .. } in &task.methods {
        let cost = match run(name) {
            Err(RecipeError::Interrupted) => return Err(RecipeError::Interrupted),
            // A method that fails while it runs is a result, and takes nothing from the others.
            Err(error) => {
                observer.event(Event::Warning(format!("seed {seed}: {name} failed: {error}")));
                continue;
            }
            Ok(cost) => cost,
        };
        let model = measure::open(&dir.join(name), engine)?;
        let measured = measure::measure(&model, &prompts, &reference_candidates, seed, interrupt)?;
        let Cost { seconds, forwards } = cost;
        observer.event(Event::Note(format!(
            "seed {seed}: {name} trained in {seconds:.0} s, {forwards} model forwards"
        )));
        all.push((name.clone(), measured, Some(cost)));
    }
    Ok(SeedResult { prompts, reference_candidates, measured: all })
}

/// All seeds pooled: the reference, the optimum, then the methods that some seed has a result of.
fn lines(methods: &[Method], results: &[SeedResult]) -> Result<Vec<Line>, RecipeError> {
    let mut lines = Vec::new();
    for name in std::iter::once("reference").chain(methods.iter().map(|m| m.name.as_str())) {
        let mut pooled = Measured::default();
        let mut costs = Vec::new();
        let of_method = results.iter().flat_map(|r| r.measured.iter().filter(|(of, ..)| of == name));
        for (_, measured, cost) in of_method {
            pooled.answers.extend_from_slice(&measured.answers);
            pooled.exact.extend_from_slice(&measured.exact);
            costs.extend(*cost);
        }
        if pooled.answers.is_empty() {
            continue;
        }
        let mean = |of: fn(&Cost) -> f64| {
            (!costs.is_empty()).then(|| costs.iter().map(of).sum::<f64>() / costs.len() as f64)
        };
        let cost = (mean(|c| c.seconds), mean(|c| c.forwards as f64));
        lines.push(page::line(name, &pooled, cost)?);
    }
    let prompts: Vec<(Prompt, Vec<f64>)> = results
        .iter()
        .flat_map(|r| r.prompts.iter().copied().zip(r.reference_candidates.iter().cloned()))
        .collect();
    lines.insert(1, page::optimum_line(&prompts)?);
    Ok(lines)
}

/// Lets progress and warnings of a run through, under the method's name; its start-up notes would bury the table.
struct Quiet<'a> {
    observer: &'a dyn Observer,
    of: String,
}

impl Observer for Quiet<'_> {
    fn event(&self, event: Event) {
        match event {
            Event::Note(_) => {}
            Event::Started { task, total, unit } => {
                self.observer.event(Event::Started { task: format!("{}: {task}", self.of), total, unit });
            }
            other => self.observer.event(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_seed_is_a_seed_too() {
        assert_eq!(seeds(u64::MAX, 2).collect::<Vec<_>>(), [u64::MAX, 0]);
        assert_eq!(seeds(3, 2).collect::<Vec<_>>(), [3, 4]);
    }
}
