//! Every workload runs, in tiny sizes and without peers, and writes what it measured.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use serde_json::Value;
use std::process::Command;

#[test]
fn every_workload_gives_finite_figures() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bso-bench"));
    let ended = command.arg("--quick").arg("--json").arg(&file).env_remove("BSO_DATA").output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let rows = result["rows"].as_array().unwrap();
    for workload in ["w1", "w2", "w3", "w4", "memory", "generate", "scaling", "startup", "profile"] {
        assert!(rows.iter().any(|row| row["workload"] == workload), "no row of {workload}");
    }
    for row in rows {
        let finite = |v: &Value| v.as_f64().is_some_and(f64::is_finite);
        assert!(row["measured"].as_array().is_some_and(|m| !m.is_empty() && m.iter().all(finite)), "{row}");
        assert!(row["passes"].is_null(), "a verdict on tiny sizes: {row}");
    }
    for what in ["difference of values f32", "difference of gradients f32"] {
        let row = rows.iter().find(|row| row["what"] == what).unwrap();
        assert!(row["measured"][0].as_f64().unwrap() <= 1e-5, "{row}");
    }

    let again = Command::new(env!("CARGO_BIN_EXE_bso-bench")).arg("--markdown").arg(&file).output().unwrap();
    let table = String::from_utf8(again.stdout).unwrap();
    assert!(table.contains("| w1") && table.contains("Machine: "), "{table}");
}

#[test]
fn models_for_a_gpu_are_made_and_trained_in_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let shapes = ["qwen2.5-0.5b", "llama-3.2-3b", "qwen2.5-7b"].map(|shape| ["--shape", shape]);
    let methods = ["full", "checkpointed", "lora", "lora-checkpointed"].map(|method| ["--method", method]);
    let ended = Command::new(env!("CARGO_BIN_EXE_bso-bench"))
        .args(["w1", "experiment", "--quick", "--dtype", "bf16", "--json"])
        .arg(&file)
        .args(shapes.iter().flatten())
        .args(methods.iter().flatten())
        .env_remove("BSO_DATA")
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let steps = result["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["what"].as_str().unwrap().starts_with("step bf16"));
    let speeds: Vec<f64> = steps
        .filter(|row| row["unit"] == "tokens/s")
        .map(|row| row["measured"][0].as_f64().unwrap())
        .collect();
    assert_eq!(speeds.len(), 2 * shapes.len() * methods.len());
    assert!(speeds.iter().all(|speed| speed.is_finite() && *speed > 0.0), "{speeds:?}");
}
