//! What other programs read, read by them: TensorBoard's event files, transformers' trainer state, the hub's model
//! card. Python is `$BSO_PYTHON` or `python3`; without the package a test says why it is skipped.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "clippy.toml allows them in tests, not in the helpers of tests"
)]

use bso_runs::report::Estimate;
use bso_runs::{LedgerRow, Mlflow, MlflowStatus, ModelCard, StepMetrics, TensorBoard, TrainerState, key};
use std::path::Path;
use std::process::Command;

/// Runs `script` with `argument`; none when `package` is not there.
fn python(package: &str, script: &str, argument: &Path) -> Option<String> {
    let python = std::env::var("BSO_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", &format!("import {package}")]).output();
    if !there.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: {python} has no package {package} (set BSO_PYTHON to one that has)");
        return None;
    }
    let out = Command::new(&python).arg("-c").arg(script).arg(argument).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

fn row(step: u64, loss: f64) -> StepMetrics {
    let mut row = StepMetrics::new(step, 0.5);
    row.put(key::LOSS, loss).put("eval_loss", loss * 2.0).put(key::GRAD_NORM, f64::NAN);
    row
}

#[test]
fn tensorboard_reads_the_events_and_forgets_what_a_resume_repeats() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tensorboard");
    let mut board = TensorBoard::open(&folder, None).unwrap();
    (1..=300).for_each(|step| board.append(&row(step, step as f64)).unwrap());
    let mut board = TensorBoard::open(&folder, Some(200)).unwrap();
    (201..=250).for_each(|step| board.append(&row(step, -(step as f64))).unwrap());
    let script = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}); a.Reload()
print(sorted(a.Tags()['scalars']))
e = a.Scalars('train/loss')
print(len(e), [(x.step, x.value) for x in e][198:202], e[-1].step)
";
    if let Some(said) = python("tensorboard", script, &folder) {
        let expected = "['eval/loss', 'train/epoch', 'train/loss']\n\
                        250 [(199, 199.0), (200, 200.0), (201, -201.0), (202, -202.0)] 250\n";
        assert_eq!(said, expected);
    }
}

#[test]
fn mlflow_reads_the_store_and_a_resume_repeats_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ml runs");
    let parameters =
        [("beta".to_owned(), "0.1".to_owned()), ("generator_params".to_owned(), "[0.2, 4]".to_owned())];
    let rows: Vec<StepMetrics> = (1..=5).map(|step| row(step, step as f64 / 3.0)).collect();
    let mut mlflow = Mlflow::open(&folder, "a: run", &parameters, &[]).unwrap();
    rows.iter().for_each(|row| mlflow.append(row).unwrap());
    let mut mlflow = Mlflow::open(&folder, "a: run", &parameters, &rows[..3]).unwrap();
    mlflow.append(row(4, 0.25).put("bso/log_r", 1e-7)).unwrap();
    mlflow.end(MlflowStatus::Finished).unwrap();
    let script = "
import os, sys
os.environ['MLFLOW_ALLOW_FILE_STORE'] = 'true'
from pathlib import Path
from mlflow import MlflowClient
c = MlflowClient(tracking_uri=Path(sys.argv[1]).as_uri())
(run,) = c.search_runs(['0'])
print(run.info.run_name, run.info.status, run.data.params)
print(sorted(run.data.metrics), run.data.metrics['bso/log_r'])
print([(m.step, m.value) for m in c.get_metric_history(run.info.run_id, 'loss')])
";
    if let Some(said) = python("mlflow", script, &folder) {
        let third = 1.0 / 3.0;
        let expected = format!(
            "a: run FINISHED {{'beta': '0.1', 'generator_params': '[0.2, 4]'}}\n\
             ['bso/log_r', 'epoch', 'eval_loss', 'loss'] 1e-07\n[(1, {third}), (2, {}), (3, 1.0), (4, 0.25)]\n",
            2.0 / 3.0
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn transformers_reads_the_trainer_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trainer_state.json");
    TrainerState::default().after(vec![row(1, 0.5), row(2, 0.25)]).write(&path).unwrap();
    let script = "
import sys
from transformers import TrainerState
s = TrainerState.load_from_json(sys.argv[1])
print(s.global_step, s.log_history[1]['loss'], s.epoch)
";
    if let Some(said) = python("transformers", script, &path) {
        assert_eq!(said, "2 0.25 0.5\n");
    }
}

fn card() -> ModelCard {
    ModelCard {
        name: "safe: \"model\"\n---\nlicense: evil".into(),
        base_model: "Qwen/Qwen2.5-0.5B".into(),
        datasets: vec!["/home/me/data.jsonl".into(), "PKU-Alignment/PKU-SafeRLHF".into()],
        license: Some("apache-2.0".into()),
        languages: vec!["no".into()],
        method: "sba".into(),
        objective: "l(log R)".into(),
        ledger: vec![LedgerRow { what: "swapped | <b>".into(), count: 3, note: "why".into() }],
        evaluation: vec![("held-out accuracy".into(), Estimate::between(0.75, 0.7, 0.8))],
        ..ModelCard::default()
    }
}

#[test]
fn the_model_card_cannot_be_broken_by_its_values() {
    let text = card().render();
    assert_eq!(text.matches("\n---\n").count(), 1, "{text}");
    assert!(text.contains("| swapped \\| &lt;b&gt; | 3 | why |"), "{text}");
    assert!(text.contains("| held-out accuracy | 0.750 | 0.700 to 0.800 |"), "{text}");
    assert!(!text.contains("/home/me"), "a local path says nothing to others");
}

#[test]
fn the_hub_reads_the_model_card() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("README.md");
    card().write(&path).unwrap();
    let script = "
import sys
from huggingface_hub import ModelCard
d = ModelCard.load(sys.argv[1], ignore_metadata_errors=False).data
print(d.base_model, d.datasets, d.license, d.language, d.library_name, d.pipeline_tag, d.tags)
";
    if let Some(said) = python("huggingface_hub", script, &path) {
        assert_eq!(
            said,
            "Qwen/Qwen2.5-0.5B ['PKU-Alignment/PKU-SafeRLHF'] apache-2.0 ['no'] transformers text-generation \
             ['bso', 'alignment', 'safety', 'sba']\n"
        );
    }
}
