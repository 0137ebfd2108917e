//! The real 260K-parameter Llama, where its data is there.

use crate::fixture::{engine, relative_max};
use bso_model::{Decoder, GenerateConfig, PackedBatch};
use std::ops::ControlFlow;
use std::path::Path;

#[test]
fn the_reference_of_stories260k_is_reproduced() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/stories260K"));
    let Ok(reference) = std::fs::read(dir.join("reference.json")) else {
        println!("skipped: {} is not there", dir.display());
        return;
    };
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let ids = |key: &str| -> Vec<u32> {
        reference[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    };
    let decoder = Decoder::load(dir, engine()).unwrap();
    let input = ids("input_ids");
    let batch = PackedBatch::from_sequences(&[(&input[..1], &input[1..])], false).unwrap();
    let log_prob = decoder.log_probs(&batch).unwrap()[0];
    let expected = reference["sum_logprob"].as_f64().unwrap();
    let difference = (log_prob / expected - 1.0).abs();

    let logits = decoder.logits(&input).unwrap();
    let last: Vec<f32> =
        reference["last_logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    // The reference stops before the last token: these logits predict it.
    let logit_difference = relative_max(logits.row(input.len() - 2), &last);
    println!("log-prob {log_prob} differs by {difference:.1e}, logits by {logit_difference:.1e} relative");
    assert!(difference < 1e-5 && logit_difference < 1e-5);

    // The greedy ids begin with those of the prompt "Once upon a time".
    let (greedy, start) = (ids("greedy_ids"), 4);
    let config = GenerateConfig { max_new_tokens: greedy.len() - start, ..GenerateConfig::default() };
    let found =
        decoder.generate(&[greedy[..start].to_vec()], &config, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(found[0].tokens, greedy[start..]);
}
