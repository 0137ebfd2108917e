//! metrics.jsonl through kills and resumes, and the files derived from it.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows them in tests, not in the helpers of tests")]

use bso_runs::{MetricsLog, PairMetrics, Quadrant, Results, StepMetrics, TrainerState, key, read_metrics};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

fn row(step: u64) -> StepMetrics {
    let mut row = StepMetrics::new(step, step as f64 / 7.0);
    row.put(key::LOSS, 1.0 / step as f64).put_count(key::NUM_TOKENS, step * 100);
    row.put_pairs("", &PairMetrics { margins: 0.1 * step as f64, ..PairMetrics::default() });
    row
}

fn file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("metrics.jsonl")
}

fn log(path: &Path, steps: impl IntoIterator<Item = u64>) {
    let mut log = MetricsLog::create(path).unwrap();
    steps.into_iter().for_each(|step| log.append(&row(step)).unwrap());
}

#[test]
fn a_resumed_file_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    log(&path, 1..=9);
    let uninterrupted = fs::read(&path).unwrap();
    // Killed at some byte after the checkpoint of step 4 was taken.
    let at_checkpoint = {
        log(&path, 1..=4);
        fs::read(&path).unwrap().len()
    };
    for killed_at in (at_checkpoint..uninterrupted.len()).step_by(17).chain([uninterrupted.len()]) {
        fs::write(&path, &uninterrupted[..killed_at]).unwrap();
        let (mut log, resumed) = MetricsLog::resume(&path, 4).unwrap();
        assert_eq!(resumed.kept, 4);
        assert_eq!(resumed.cut_bytes as usize, killed_at - at_checkpoint);
        (5..=9).for_each(|step| log.append(&row(step)).unwrap());
        assert_eq!(fs::read(&path).unwrap(), uninterrupted, "killed at byte {killed_at}");
    }
}

#[test]
fn a_torn_last_line_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    for torn in ["{\"step\":3,\"lo", "{\"step\":3}", "\0\0\0\n", "{\"step\":"] {
        log(&path, 1..=2);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
        let read = read_metrics(&path).unwrap();
        assert!(read.torn && read.rows.len() == 2, "{torn:?}");
        let (_, resumed) = MetricsLog::resume(&path, 100).unwrap();
        assert_eq!(resumed.cut_bytes as usize, torn.len());
        assert!(!read_metrics(&path).unwrap().torn);
    }
}

#[test]
fn a_broken_line_in_the_middle_is_named_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    for broken in ["nonsense", "{\"loss\":1}", "{\"step\":-1}", "[]", &"x".repeat(3 << 20)] {
        fs::write(&path, format!("{{\"step\":1}}\n{broken}\n{{\"step\":3}}\n")).unwrap();
        let before = fs::read(&path).unwrap();
        let error = MetricsLog::resume(&path, 9).err().unwrap().to_string();
        assert!(error.contains("metrics.jsonl, line 2"), "{error:.200}");
        assert!(read_metrics(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn resuming_without_a_file_starts_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, resumed) = MetricsLog::resume(&file(&dir), 0).unwrap();
    assert_eq!((resumed.kept, resumed.cut_bytes), (0, 0));
    log.append(&row(1)).unwrap();
    log.sync().unwrap();
    assert_eq!(read_metrics(&file(&dir)).unwrap().rows, [row(1)]);
}

#[test]
fn keys_are_those_of_the_contract_in_order() {
    let pairs = PairMetrics { log_r: Some(-0.5), safety_delta: Some(1.0), ..PairMetrics::default() };
    let mut row = StepMetrics::new(3, 0.25);
    row.put(key::LOSS, f64::NAN).put_pairs(Quadrant::of(false, true).prefix(), &pairs);
    let prefix = format!("{}{}", key::EVAL_PREFIX, Quadrant::UnsafeUnsafe.prefix());
    row.put_pairs(&prefix, &PairMetrics::default());
    let text = serde_json::to_string(&row).unwrap();
    assert!(
        text.starts_with(r#"{"step":3,"epoch":0.25,"loss":null,"quadrant/safe_unsafe/rewards/chosen":0.0,"#),
        "{text}"
    );
    assert!(text.contains(r#""quadrant/safe_unsafe/bso/log_r":-0.5"#), "{text}");
    assert!(text.contains(r#""eval_quadrant/unsafe_unsafe/rewards/margins":0.0"#), "{text}");
    let back: StepMetrics = serde_json::from_str(&text).unwrap();
    assert!(back.get(key::LOSS).unwrap().is_nan() && back.is_evaluation());
}

#[test]
fn rows_are_compared_without_times() {
    let (mut a, mut b) = (row(1), row(1));
    a.put(key::TOKENS_PER_SECOND, 10.0);
    b.put(key::TOKENS_PER_SECOND, 20.0);
    assert_ne!(a, b);
    assert_eq!(a.without_times(), b.without_times());
}

#[test]
fn trainer_state_follows_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trainer_state.json");
    let state = TrainerState { save_steps: 3, ..TrainerState::default() }.after(vec![row(1), row(2)]);
    assert_eq!((state.global_step, state.num_input_tokens_seen), (2, 200));
    state.write(&path).unwrap();
    assert_eq!(TrainerState::read(&path).unwrap().global_step, 2);
    fs::write(&path, "{").unwrap();
    assert!(TrainerState::read(&path).unwrap_err().to_string().contains("trainer_state.json"));
}

#[test]
fn results_of_a_later_evaluation_join_those_of_training() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all_results.json");
    let mut first = Results::new();
    first.put("train_loss", 0.5).put("eval_loss", 0.7);
    first.merge_into(&path).unwrap();
    let mut second = Results::new();
    second.put("eval_loss", 0.6).put_count("eval_samples", 10).put("eval_x", f64::INFINITY);
    second.merge_into(&path).unwrap();
    let all: Vec<(String, f64)> =
        Results::read(&path).unwrap().iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let expected = [("train_loss", 0.5), ("eval_loss", 0.6), ("eval_samples", 10.0)];
    assert_eq!(all, expected.map(|(k, v)| (k.to_owned(), v)));
}
