//! A side of a measurement: a process of its own, told what to do by one JSON argument and answering with one JSON
//! line. Wall time and peak memory are taken from outside, in the same way for every side.

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wait4::Wait4;

use crate::watcher::Watcher;

/// Names the variable that holds the second (since 1970) at which a side was started.
pub const STARTED: &str = "BSO_BENCH_STARTED";

/// Names the folder of the peers' scripts where this program runs elsewhere than it was built.
const PEERS: &str = "BSO_BENCH_PEERS";

/// What to start.
#[derive(Clone, Debug)]
pub struct Side {
    /// Whose it is and how it is set, for the progress lines.
    pub name: String,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    may_fail: bool,
}

/// What a side left behind.
#[derive(Clone, Debug)]
pub struct Ended {
    /// From start to exit, seconds.
    pub seconds: f64,
    /// Largest resident size, MiB.
    pub peak_mib: f64,
    /// Most memory of the GPU in use beyond what was before it started, as the driver says, MiB; none on the processor.
    pub device_mib: Option<f64>,
    /// Its answer.
    pub answer: Value,
}

impl Ended {
    /// A figure of the answer.
    ///
    /// # Errors
    /// It is not there.
    pub fn number(&self, name: &str) -> anyhow::Result<f64> {
        let found = self.answer.get(name).and_then(Value::as_f64);
        found.with_context(|| format!("no figure {name:?} in {}", self.answer))
    }
}

impl Side {
    /// This program itself, doing `task`.
    ///
    /// # Errors
    /// The program's own path is unknown.
    pub fn ours(name: &str, task: &str, settings: &impl Serialize) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where this program lies is unknown")?;
        let arguments =
            vec![crate::side::COMMAND.to_owned(), task.to_owned(), serde_json::to_string(settings)?];
        Ok(Self { name: format!("bso {name}"), program, arguments, variables: Vec::new(), may_fail: false })
    }

    /// A peer: a script of `bench/peers`.
    ///
    /// # Errors
    /// Settings that are not JSON.
    pub fn peer(python: &Path, script: &str, settings: &impl Serialize) -> anyhow::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let path = std::env::var_os(PEERS).map_or(here, PathBuf::from).join(script);
        let arguments = vec![path.display().to_string(), serde_json::to_string(settings)?];
        let name = format!("peer {}", script.trim_end_matches(".py"));
        // Nothing is fetched: what a peer needs lies in the folders that it is given.
        let variables = [("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_VERBOSITY", "error"), ("TQDM_DISABLE", "1")];
        let variables = variables.map(|(name, value)| (name, value.to_owned())).into();
        Ok(Self { name, program: python.to_owned(), arguments, variables, may_fail: false })
    }

    /// With a variable of its environment.
    pub fn with(mut self, variable: &'static str, value: impl ToString) -> Self {
        self.variables.push((variable, value.to_string()));
        self
    }

    /// Its failure is said and its figures are missing; the others go on.
    pub fn may_fail(mut self) -> Self {
        self.may_fail = true;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, fails (with what it said), or its last line is no JSON.
    pub fn run(&self) -> anyhow::Result<Ended> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let said = tempfile::NamedTempFile::new()?;
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env(STARTED, now.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said.reopen()?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut out = String::new();
        if let Some(mut pipe) = child.stdout.take() {
            pipe.read_to_string(&mut out)?;
        }
        let used = child.wait4()?;
        let seconds = start.elapsed().as_secs_f64();
        if !used.status.success() {
            let said = std::fs::read_to_string(said.path()).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(15).collect();
            let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
            bail!("{} failed ({}):\n{last}", self.name, used.status);
        }
        let line = out.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        let answer = serde_json::from_str(line)
            .with_context(|| format!("{}: its answer is not a JSON line: {out}", self.name))?;
        Ok(Ended {
            seconds,
            peak_mib: used.rusage.maxrss as f64 / (1 << 20) as f64,
            device_mib: None,
            answer,
        })
    }
}

/// Runs the sides by turns, A B A B, so that a slow minute of the machine meets all of them; results stand by side.
///
/// # Errors
/// The first side that fails and must not.
pub fn by_turns(
    repetitions: u32,
    sides: &[Side],
    mut watcher: Option<&mut Watcher>,
) -> anyhow::Result<Vec<Vec<Ended>>> {
    let mut ended: Vec<Vec<Ended>> = sides.iter().map(|_| Vec::new()).collect();
    for repetition in 1..=repetitions {
        for (side, ended) in sides.iter().zip(&mut ended) {
            if let Some(watcher) = &mut watcher {
                watcher.begin()?;
            }
            let mut end = match side.run() {
                Err(error) if side.may_fail => {
                    eprintln!("  {repetition}/{repetitions}  {error:#}");
                    continue;
                }
                end => end?,
            };
            if let Some(watcher) = &mut watcher {
                end.device_mib = Some(watcher.end()?);
            }
            eprintln!(
                "  {repetition}/{repetitions}  {:<40} {:8.2} s  {:7.0} MiB{}",
                side.name,
                end.seconds,
                end.peak_mib,
                end.device_mib.map(|mib| format!("  GPU {mib:7.0} MiB")).unwrap_or_default()
            );
            ended.push(end);
        }
    }
    Ok(ended)
}
