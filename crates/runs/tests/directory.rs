//! Whether a run may begin in a folder, and which of its checkpoints count.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows them in tests, not in the helpers of tests")]

use bso_runs::{Existing, Opening, RunDirectory, RunsError};
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

fn opening(existing: Existing) -> Opening {
    Opening { existing, ..Opening::default() }
}

fn checkpoint(run: &RunDirectory, step: u64) {
    let building = run.begin_checkpoint(step).unwrap();
    fs::write(building.path().join("model.safetensors"), vec![7; 100]).unwrap();
    fs::create_dir(building.path().join("optimiser")).unwrap();
    fs::write(building.path().join("optimiser/state"), "x").unwrap();
    building.commit().unwrap();
}

fn steps(run: &RunDirectory) -> Vec<u64> {
    run.checkpoints().unwrap().iter().map(|c| c.step).collect()
}

#[test]
fn a_new_folder_is_created_and_an_empty_one_taken() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b");
    let run = RunDirectory::open(&root, &Opening::default()).unwrap();
    assert!(root.is_dir());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "the probe must leave nothing");
    drop(run);
    RunDirectory::open(&root, &Opening::default()).unwrap();
}

#[test]
fn another_run_is_refused_and_both_ways_out_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1}\n").unwrap();
    let error = RunDirectory::open(dir.path(), &Opening::default()).unwrap_err();
    assert!(matches!(error, RunsError::HoldsRun { .. }));
    let text = error.to_string();
    assert!(text.contains("overwrite_output_dir") && text.contains("resume_from_checkpoint"), "{text}");
    RunDirectory::open(dir.path(), &opening(Existing::Resume)).unwrap();
    assert!(dir.path().join("metrics.jsonl").exists());
}

#[test]
fn foreign_files_are_refused_and_never_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = ["thesis.txt", "model.safetensors", "README.md", "config.yaml", "report.html"]
        .map(|n| dir.path().join(n));
    foreign.iter().for_each(|f| fs::write(f, "mine").unwrap());
    let error = RunDirectory::open(dir.path(), &Opening::default()).unwrap_err();
    assert!(matches!(error, RunsError::NotEmpty { .. }), "{error}");
    drop(RunDirectory::open(dir.path(), &opening(Existing::Overwrite)).unwrap());
    assert!(foreign.iter().all(|f| f.exists()), "no run's record stood there, so no file was a run's");
    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    RunDirectory::open(dir.path(), &opening(Existing::Overwrite)).unwrap();
    assert!(foreign[0].exists() && !foreign[1].exists());
}

#[test]
fn overwriting_never_deletes_what_the_run_reads() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["manifest.json", "model.safetensors"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    for input in [dir.path().to_owned(), dir.path().join("model.safetensors")] {
        let asked = Opening { inputs: vec![input], ..opening(Existing::Overwrite) };
        let error = RunDirectory::open(dir.path(), &asked).unwrap_err();
        assert!(matches!(error, RunsError::InputInside { .. }), "{error}");
        assert!(dir.path().join("model.safetensors").exists());
    }
    // What lies deeper in a checkpoint is protected as well.
    let run = RunDirectory::open(dir.path(), &opening(Existing::Resume)).unwrap();
    checkpoint(&run, 5);
    drop(run);
    let asked = Opening {
        inputs: vec![dir.path().join("checkpoint-5/model.safetensors")],
        ..opening(Existing::Overwrite)
    };
    assert!(RunDirectory::open(dir.path(), &asked).is_err());
}

#[test]
fn two_runs_cannot_write_into_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = RunDirectory::open(dir.path(), &Opening::default()).unwrap();
    if cfg!(unix) {
        let error = RunDirectory::open(dir.path(), &opening(Existing::Resume)).unwrap_err();
        assert!(matches!(error, RunsError::InUse { .. }), "{error}");
    }
    drop(first);
    RunDirectory::open(dir.path(), &Opening::default()).unwrap();
}

#[test]
fn unusable_places_are_said_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(RunDirectory::open(&file, &Opening::default()), Err(RunsError::NotAFolder { .. })));
    let below = RunDirectory::open(file.join("x"), &Opening::default()).unwrap_err();
    assert!(matches!(below, RunsError::NotWritable { .. }), "{below}");
    let proc = Path::new("/proc/self");
    if proc.exists() {
        assert!(RunDirectory::open(proc.join("bso"), &Opening::default()).is_err());
    }
    let run = RunDirectory::open(dir.path().join("run"), &Opening::default()).unwrap();
    if run.free_bytes().is_some() {
        let error = run.check_space(Some(u64::MAX)).unwrap_err();
        assert!(error.to_string().contains("free"), "{error}");
        let asked = Opening { needed_bytes: Some(u64::MAX), ..Opening::default() };
        assert!(RunDirectory::open(dir.path().join("other"), &asked).is_err());
    }
    run.check_space(Some(1)).unwrap();
}

#[test]
fn only_complete_checkpoints_are_resumed_from() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDirectory::open(dir.path(), &Opening::default()).unwrap();
    assert_eq!(run.latest_checkpoint().unwrap(), None);
    [10, 2, 30, 40, 50].into_iter().for_each(|step| checkpoint(&run, step));
    assert_eq!(steps(&run), [2, 10, 30, 40, 50]);
    fs::write(run.checkpoint(50).join("optimiser/state"), "").unwrap();
    fs::remove_file(run.checkpoint(40).join("model.safetensors")).unwrap();
    fs::create_dir(dir.path().join("checkpoint-99")).unwrap();
    fs::create_dir(dir.path().join("checkpoint-0100")).unwrap();
    fs::write(dir.path().join("checkpoint-7x"), "").unwrap();
    let latest = run.latest_checkpoint().unwrap().unwrap();
    assert_eq!((latest.step, latest.complete), (30, true));
}

#[test]
fn a_list_that_points_outside_its_checkpoint_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDirectory::open(dir.path(), &Opening::default()).unwrap();
    fs::write(dir.path().join("x"), "12").unwrap();
    fs::create_dir(run.checkpoint(1)).unwrap();
    fs::write(run.checkpoint(1).join("checkpoint.json"), r#"{"step":1,"files":{"../x":2}}"#).unwrap();
    assert_eq!(run.latest_checkpoint().unwrap(), None);
}

#[test]
fn pruning_keeps_the_latest_and_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDirectory::open(dir.path(), &Opening::default()).unwrap();
    (1..=5).for_each(|step| checkpoint(&run, step * 10));
    fs::create_dir(run.checkpoint(15)).unwrap();
    fs::create_dir(run.checkpoint(60)).unwrap();
    let limit = |n| NonZeroUsize::new(n).unwrap();
    assert_eq!(run.prune_checkpoints(limit(3), Some(10)).unwrap(), [15, 20, 30]);
    assert_eq!(steps(&run), [10, 40, 50, 60], "an incomplete one after the latest is not touched");
    assert_eq!(run.prune_checkpoints(limit(1), None).unwrap(), [10, 40]);
    assert_eq!(steps(&run), [50, 60]);
}

#[test]
fn leftovers_of_a_killed_run_go() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".bso-abc.tmp")).unwrap();
    fs::write(dir.path().join(".bso-abc.tmp/half"), "x").unwrap();
    RunDirectory::open(dir.path(), &Opening::default()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
