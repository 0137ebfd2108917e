//! The population claims of the method, solved exactly.

use bso_objective::Generator;
use bso_objective::tabular::{VerifyOptions, World, WorldSpec, verify};

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
fn swap_drop_without_clamp_ruins_the_generators_with_a_growing_left_tail_only() {
    let mut options = VerifyOptions::standard(0, 0).unwrap();
    options.worlds.retain(|w| ["embedded-8", "embedded-16"].contains(&w.name()));
    let outcome = verify(&options).unwrap();
    assert!(outcome.passed());
    let lines: Vec<_> = outcome.lines.iter().filter(|l| l.transform == "swap_drop").collect();
    assert_eq!(lines.len(), 2 * 2 * options.generators.len());
    for line in lines {
        let bounded = ["logistic", "ba(-0.4)", "phi_mu(1.5)", "kernel(cosh(0.3*u))", "kernel(1/cosh(u))"];
        let kept = line.clamp.is_some() || bounded.contains(&line.generator.as_str());
        assert_eq!(line.pass, kept, "{line:?}");
        assert!(kept || line.total_variation > 0.01, "{line:?}");
    }
    assert!(outcome.conclusion.contains("sba(0.2, 4)"), "{}", outcome.conclusion);
    println!("{}", outcome.conclusion);
}

#[test]
fn one_response_takes_all_where_satisfied_pairs_pull_without_end() {
    // ten equally good safe responses beside one unsafe: the descent still ends on one or few of them
    let n = 11;
    let spec = WorldSpec {
        reference: (0..n).map(|y| (f64::from(y) + 20.0) / 275.0).collect(),
        reward: vec![0.0; 11],
        is_unsafe: (0..n).map(|y| y == 0).collect(),
        beta: 0.1,
        safety_penalty: 10.0,
    };
    let world = World::new("even", spec).unwrap();
    let options =
        VerifyOptions { worlds: vec![world], generators: vec![Generator::Lsif], transformed_worlds: 1 };
    let outcome = verify(&options).unwrap();
    let distances: Vec<f64> = outcome.lines.iter().map(|l| l.total_variation).collect();
    println!("{distances:?}");
    assert!(distances[0] <= 1e-6 && distances[1] > 0.8 && distances[2] <= 1e-6, "{distances:?}");
}

#[test]
fn a_generator_that_overflows_in_a_world_is_an_error() {
    let mut options = VerifyOptions::standard(6, 0).unwrap();
    options.generators = vec![Generator::new("ba", &[9.0]).unwrap()];
    assert!(verify(&options).unwrap_err().to_string().contains("too large for f64"));
}
