//! What a run survives: `kill -9` at random moments, and a disk that is full.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what was lost is shown on success as well")]

mod support;

use bso_runs::RunDirectory;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::{Playground, assert_same_result, metrics};

const SAVE_STEPS: u64 = 7;
const KILLS: u64 = 20;

/// Checkpoints every few steps, evaluations, accumulation across micro-batches.
fn long_run(here: &Playground, name: &str) -> String {
    let settings = format!(
        "loss_type: bso\nsafety_penalty: 5\nsafety_transform: swap_drop\nmax_steps: 400\nsave_steps: {SAVE_STEPS}\n\
         logging_steps: 1\neval_strategy: steps\neval_steps: 30\neval_split: 0.1\ngradient_accumulation_steps: 2\n\
         save_total_limit: 2\nlr_scheduler_type: cosine\nwarmup_steps: 5\nload_best_model_at_end: true\n"
    );
    here.config(name, &settings)
}

/// Numbers of xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The last step that the log holds; of a torn last line nothing.
fn logged(run: &Path) -> u64 {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    whole.filter_map(|row| row["step"].as_u64()).max().unwrap_or(0)
}

fn saved(run: &Path) -> u64 {
    RunDirectory::at(run).latest_checkpoint().ok().flatten().map_or(0, |checkpoint| checkpoint.step)
}

/// Waits until `step` is in the log and `more` has passed; whether the run is still going then.
fn reaches(child: &mut Child, run: &Path, step: u64, more: Duration) -> bool {
    while logged(run) < step {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(more);
    child.try_wait().unwrap().is_none()
}

/// Every fourth kill comes at any time from the start of the process, the others after a few more steps, wherever the run
/// is then: in a step, an evaluation, a checkpoint, its pruning.
#[test]
fn twenty_kills_at_random_moments_cost_the_steps_since_a_checkpoint_and_no_byte() {
    let here = Playground::new();
    let (whole, killed) = (long_run(&here, "whole"), long_run(&here, "killed"));
    here.run(&["train", &whole]).ok();
    let run = here.path("killed");
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = Random(u64::from(seed) | 1);
    let mut lost = Vec::new();
    for kill in 0..KILLS {
        let mut resume = here.bso();
        resume.args(["train", &killed, "--resume_from_checkpoint", "auto"]);
        let mut child = resume.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // What a resumed run does again is logged already: the count begins at its checkpoint.
        let step = saved(&run) + 1 + random.below(12);
        let alive = if kill % 4 == 0 {
            std::thread::sleep(Duration::from_millis(random.below(200)));
            child.try_wait().unwrap().is_none()
        } else {
            reaches(&mut child, &run, step.max(logged(&run) + 1), Duration::from_micros(random.below(20_000)))
        };
        assert!(alive, "the run ended after {kill} kills; seed {seed}");
        child.kill().unwrap();
        child.wait().unwrap();
        lost.push(logged(&run) - saved(&run));
    }
    println!("seed {seed}: steps lost by each kill: {lost:?}");
    // A checkpoint that is being written when the kill comes is not there yet.
    assert!(lost.iter().all(|steps| *steps <= SAVE_STEPS), "seed {seed}: {lost:?}");
    here.run(&["train", &killed, "--resume_from_checkpoint", "auto"]).ok();
    assert_same_result(&here.path("whole"), &run);
    let names = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".tmp")).count(), 0);
}

/// A file system of 1 MiB in a mount namespace of its own, so that nothing outside sees it and nobody needs to be root.
#[cfg(target_os = "linux")]
#[test]
fn a_run_that_fills_its_file_system_goes_on_when_there_is_room() {
    let here = Playground::new();
    let settings = "loss_type: dpo\nmax_steps: 40\nsave_steps: 2\nlogging_steps: 1\n";
    let (whole, full) = (here.config("whole", settings), here.config("full", settings));
    here.run(&["train", &whole]).ok();
    fs::create_dir(here.path("full")).unwrap();
    let program = env!("CARGO_BIN_EXE_bso");
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs full || exit 77
         {program} train {full} --resume_from_checkpoint auto; echo \"full: $?\"
         ls full; mount -o remount,size=64m tmpfs full
         {program} train {full} --resume_from_checkpoint auto; echo \"room: $?\"
         mkdir out && cp full/model.safetensors full/metrics.jsonl out"
    );
    let plain = here.bso();
    let mut shell = Command::new("unshare");
    shell
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(plain.get_current_dir().unwrap());
    let output = match shell.output() {
        Ok(output) if output.status.code() == Some(77) || output.stdout.is_empty() => {
            println!("skipped: no mount namespaces here: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        Ok(output) => output,
        Err(error) => {
            println!("skipped: no unshare here: {error}");
            return;
        }
    };
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.contains("full: 1") && out.contains("room: 0"), "{out}\n{err}");
    assert!(err.contains("No space left") && err.contains("remedy:"), "{err}");
    let listed = out.split("full: 1").nth(1).unwrap().split("train_loss").next().unwrap();
    assert!(listed.contains("checkpoint-") && !listed.contains(".tmp"), "{listed}");
    assert!(err.contains("resumed     from"), "{err}");
    assert_same_result(&here.path("whole"), &here.path("out"));
    assert_eq!(metrics(&here.path("out")).last().unwrap()["step"], 40);
}
