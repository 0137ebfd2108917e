//! The verification: every generator's population minimiser against the known optimum, world by world, and what the
//! transform T(D) does to them.

use serde::Serialize;

use super::population::Population;
use super::world::{World, WorldSpec, total_variation};
use crate::bso::{BsoLoss, BsoSettings, Tail};
use crate::error::ObjectiveError;
use crate::generator::Generator;
use crate::transform::SafetyTransform;

/// The bound of the claim: a total variation above it fails.
const TOLERANCE: f64 = 1e-6;
/// The reference clamp.
const CLAMP: (f64, f64) = (-30.0, 30.0);

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// The worlds, all solved without transform.
    pub worlds: Vec<World>,
    /// The generators.
    pub generators: Vec<Generator>,
    /// How many of the worlds (the last ones with a mixed pair and C > 0) are also solved on T(D).
    pub transformed_worlds: usize,
}

/// One world, generator, transform and clamp.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerificationLine {
    /// The world's name.
    pub world: String,
    /// The generator with its parameters.
    pub generator: String,
    /// C, reward units.
    pub safety_penalty: f64,
    /// The data transform.
    pub transform: &'static str,
    /// The clamp interval, if any.
    pub clamp: Option<(f64, f64)>,
    /// Distance to pi*_C (no transform) or to the hard-constrained optimum (T(D)).
    pub total_variation: f64,
    /// Whether it is at most 1e-6. Only lines without transform decide.
    pub pass: bool,
}

/// All lines and what to make of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// In the order solved.
    pub lines: Vec<VerificationLine>,
    /// One line for a user.
    pub conclusion: String,
}

impl VerifyOptions {
    /// The embedded worlds and `generated` random ones, with every generator of the family.
    ///
    /// # Errors
    /// None in practice: worlds and generators are constants.
    pub fn standard(generated: usize, seed: u64) -> Result<Self, ObjectiveError> {
        let mut worlds = World::generate(generated, seed)?;
        worlds.extend(World::embedded()?);
        let mut generators = vec![Generator::Logistic, Generator::Kliep, Generator::Lsif];
        for (name, params) in [
            ("ba", vec![0.5]),
            ("ba", vec![-0.4]),
            ("sba", vec![0.2, 4.0]),
            ("sba", vec![0.3, 4.0]),
            ("sba", vec![1.0, 4.0]),
            ("phi_mu", vec![1.5]),
            ("phi_mu", vec![0.5]),
            ("phi_mu", vec![2.5]),
        ] {
            generators.push(Generator::new(name, &params)?);
        }
        for expression in ["cosh(0.3*u)", "1/cosh(u)"] {
            generators.push(Generator::kernel(expression)?);
        }
        Ok(Self { worlds, generators, transformed_worlds: 3 })
    }
}

impl Verification {
    /// Whether every line without transform passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.lines.iter().all(|l| l.pass || l.transform != SafetyTransform::None.name())
    }
}

/// Solves every line.
///
/// # Errors
/// A generator whose slope f64 cannot hold in one of the worlds.
pub fn verify(options: &VerifyOptions) -> Result<Verification, ObjectiveError> {
    let mut tasks = Vec::new();
    for world in &options.worlds {
        for generator in &options.generators {
            tasks.push((world, generator, SafetyTransform::None, None));
        }
    }
    for world in options.worlds.iter().rev().filter(|w| is_mixed(w.spec())).take(options.transformed_worlds) {
        for generator in &options.generators {
            for clamp in [None, Some(CLAMP)] {
                tasks.push((world, generator, SafetyTransform::SwapDrop, clamp));
            }
        }
    }
    let lines =
        in_parallel(&tasks, |&(world, generator, transform, clamp)| line(world, generator, transform, clamp));
    let lines = lines.into_iter().collect::<Result<Vec<_>, _>>()?;
    let conclusion = conclude(&lines);
    Ok(Verification { lines, conclusion })
}

/// `work` on every task, in order of the tasks; each is independent, so threads change nothing but the time.
fn in_parallel<T: Sync, R: Send>(tasks: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = tasks.len().div_ceil(threads).max(1);
    // interleaved shares: neighbouring tasks cost alike
    let threads = tasks.len().div_ceil(share);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let work = &work;
        let run = |first: usize| {
            move || {
                tasks
                    .iter()
                    .enumerate()
                    .skip(first)
                    .step_by(threads)
                    .map(|(i, t)| (i, work(t)))
                    .collect::<Vec<_>>()
            }
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(run(first))).collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

fn line(
    world: &World,
    generator: &Generator,
    transform: SafetyTransform,
    clamp: Option<(f64, f64)>,
) -> Result<VerificationLine, ObjectiveError> {
    let spec = world.spec();
    let loss = BsoLoss::new(BsoSettings {
        generator: generator.clone(),
        beta: spec.beta,
        safety_penalty: spec.safety_penalty,
        clamp,
        tail: Tail::Clamp,
        label_smoothing: 0.0,
    })?;
    let population = Population::new(world, &loss, transform);
    let (minimum, optimum) = match transform {
        SafetyTransform::SwapDrop => (population.follow()?, world.hard_optimum().unwrap_or_default()),
        SafetyTransform::None | SafetyTransform::Drop => (population.minimise()?, world.optimum()),
    };
    let distance = total_variation(&minimum.policy, &optimum);
    Ok(VerificationLine {
        world: world.name().to_owned(),
        generator: generator.to_string(),
        safety_penalty: spec.safety_penalty,
        transform: transform.name(),
        clamp,
        total_variation: distance,
        pass: distance <= TOLERANCE,
    })
}

/// Whether T(D) means something in the world: at least two safe responses, one unsafe, and a penalty.
fn is_mixed(spec: &WorldSpec) -> bool {
    let safe = spec.is_unsafe.iter().filter(|s| !**s).count();
    safe >= 2 && safe < spec.is_unsafe.len() && spec.safety_penalty > 0.0
}

fn conclude(lines: &[VerificationLine]) -> String {
    let worst = |transform: SafetyTransform, clamped: bool, generator: Option<&str>| {
        lines
            .iter()
            .filter(|l| l.transform == transform.name() && l.clamp.is_some() == clamped)
            .filter(|l| generator.is_none_or(|g| g == l.generator))
            .fold(0.0, |m: f64, l| m.max(l.total_variation))
    };
    let plain = worst(SafetyTransform::None, false, None);
    let claim = if plain <= TOLERANCE {
        format!(
            "Without a data transform the minimiser of every generator is the safe optimum (largest total variation {plain:.1e})"
        )
    } else {
        let failed: Vec<&str> =
            lines.iter().filter(|l| !l.pass && l.transform == "none").map(|l| l.generator.as_str()).collect();
        format!(
            "FAILED: without a data transform {} lines miss the safe optimum (largest total variation {plain:.1e}, first {})",
            failed.len(),
            failed.first().unwrap_or(&"-")
        )
    };
    let mut far: Vec<&str> = Vec::new();
    for l in lines.iter().filter(|l| l.transform == SafetyTransform::SwapDrop.name()) {
        if !far.contains(&l.generator.as_str())
            && worst(SafetyTransform::SwapDrop, false, Some(&l.generator)) > 0.01
        {
            far.push(&l.generator);
        }
    }
    if far.is_empty() {
        return format!("{claim}.");
    }
    let without = worst(SafetyTransform::SwapDrop, false, None);
    let with = far.iter().map(|g| worst(SafetyTransform::SwapDrop, true, Some(g))).fold(0.0, f64::max);
    format!(
        "{claim}; on swap_drop data keep log_ratio_clamp for {}: without it satisfied pairs pull without end and the policy ends up to {without:.2} from the safe optimum, with it {with:.1e}.",
        far.join(", ")
    )
}
