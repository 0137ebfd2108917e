//! Hard points against 60-digit arithmetic on the exact f64 inputs (`fixtures/make_precision.py`), through the row
//! contract: 1e-12 relative in loss, log-ratio and derivatives.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test reports through panics, in its own functions too"
)]

use bso_objective::row::{RowDefaults, evaluate_row};
use serde_json::Value;

/// The quadrature behind a kernel's loss is good to a little less than the closed forms.
fn tolerance(row: &Value, key: &str) -> f64 {
    if row["generator"] == "kernel" && key == "loss" { 1e-12 } else { 2e-15 }
}

#[test]
fn hard_points_are_met_to_the_last_digits() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("fixtures/precision.json")).unwrap();
    let mut worst = (0.0f64, String::new());
    for row in &rows {
        let mut input = row.as_object().unwrap().clone();
        input.shift_remove("expect");
        let got = evaluate_row(&input, &RowDefaults::default()).unwrap_or_else(|e| panic!("{e}: {row}"));
        for (key, expected) in row["expect"].as_object().unwrap() {
            let expected: f64 = expected.as_str().unwrap().parse().unwrap();
            let value = got[key].as_f64().unwrap();
            // below 1e-290 a rounding of the smallest f64 already shows
            let floor = if expected == 0.0 { 0.0 } else { 1e-305 };
            let difference = (value - expected).abs();
            let relative = if expected == 0.0 { difference } else { difference / expected.abs() };
            assert!(
                difference <= tolerance(row, key) * expected.abs() + floor,
                "{key}: {value:e} instead of {expected:e} ({relative:e}): {row}"
            );
            if relative > worst.0 && row["generator"] != "kernel" {
                worst = (relative, format!("{key} of {row}"));
            }
        }
    }
    println!("{} rows, largest relative difference {:e}: {}", rows.len(), worst.0, worst.1);
}
