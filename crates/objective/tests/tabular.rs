//! The population claims of the method, solved exactly.

use bso_objective::tabular::{VerifyOptions, verify};

#[test]
fn without_transform_every_generator_finds_the_safe_optimum() {
    let mut options = VerifyOptions::standard(24, 7).unwrap();
    options.transformed_worlds = 0;
    let outcome = verify(&options).unwrap();
    let worst = outcome.lines.iter().max_by(|a, b| a.total_variation.total_cmp(&b.total_variation)).unwrap();
    println!("worst {worst:?} of {}", outcome.lines.len());
    assert!(outcome.passed(), "{worst:?}");
}

#[test]
fn swap_drop_without_clamp_destroys_unbounded_generators_only() {
    let mut options = VerifyOptions::standard(0, 0).unwrap();
    options.worlds.retain(|w| ["embedded-8", "embedded-16"].contains(&w.name()));
    let outcome = verify(&options).unwrap();
    for l in &outcome.lines {
        if l.transform == "swap_drop" {
            println!("{l:?}");
        }
    }
    println!("{}", outcome.conclusion);
}
