//! Generation: equal to transformers', to recomputation without a cache, and within its limits.

use crate::fixture::{CASES, Expected, FAMILIES, decoder};
use bso_model::{DType, Decoder, FinishReason, GenerateConfig, Generated, NewToken};
use std::ops::ControlFlow;

fn generate(decoder: &Decoder, prompts: &[Vec<u32>], config: &GenerateConfig) -> Vec<Generated> {
    decoder.generate(prompts, config, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn prompts(count: usize, length: impl Fn(usize) -> usize) -> Vec<Vec<u32>> {
    (0..count).map(|i| (0..length(i)).map(|j| (3 + (i * 31 + j * 17) % 61) as u32).collect()).collect()
}

#[test]
fn greedy_ids_are_those_of_transformers() {
    for case in CASES {
        let (expected, decoder) = (Expected::of(case), decoder(case));
        let prompts: Vec<_> = (0..3).map(|i| expected.ids(&format!("greedy.{i}.prompt"))).collect();
        let config = GenerateConfig { max_new_tokens: 20, ..GenerateConfig::default() };
        let found = generate(&decoder, &prompts[..2], &config);
        for (i, generated) in found.iter().enumerate() {
            assert_eq!(generated.tokens, expected.ids(&format!("greedy.{i}.ids")), "{case}, prompt {i}");
            assert_eq!(generated.finish_reason, FinishReason::Length);
        }
        let config = GenerateConfig { stop_ids: expected.ids("stop"), ..config };
        let found = generate(&decoder, &prompts[2..], &config);
        assert_eq!(found[0].tokens, expected.ids("greedy.2.ids"), "{case}, with a stop token");
        assert_eq!(found[0].finish_reason, FinishReason::Stop);
    }
}

#[test]
fn the_cache_gives_what_recomputing_the_whole_sequence_gives() {
    for case in FAMILIES {
        let decoder = decoder(case);
        let prompts = prompts(3, |i| 2 + 7 * i);
        let config = GenerateConfig { max_new_tokens: 12, ..GenerateConfig::default() };
        for (prompt, generated) in prompts.iter().zip(generate(&decoder, &prompts, &config)) {
            let mut sequence = prompt.clone();
            for token in generated.tokens {
                let logits = decoder.logits(&sequence).unwrap();
                let last = logits.row(sequence.len() - 1);
                let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
                assert_eq!(token as usize, best, "{case}");
                sequence.push(token);
            }
        }
    }
}

#[test]
fn what_a_prompt_gives_does_not_depend_on_those_beside_it() {
    let decoder = decoder("llama_tied_gqa");
    // More prompt tokens than one pass takes, so that prompts are also cut into pieces.
    let prompts = prompts(24, |i| 20 + i % 9);
    let sampled = |batch_size| GenerateConfig {
        max_new_tokens: 10,
        temperature: 0.8,
        top_p: 0.95,
        seed: 5,
        batch_size,
        ..GenerateConfig::default()
    };
    let together = generate(&decoder, &prompts, &sampled(24));
    assert_eq!(together, generate(&decoder, &prompts, &sampled(1)));
    assert_eq!(together, generate(&decoder, &prompts, &sampled(5)));
    let other_seed = GenerateConfig { seed: 6, ..sampled(24) };
    assert_ne!(together, generate(&decoder, &prompts, &other_seed));
    let greedy = GenerateConfig { temperature: 0.0, ..sampled(4) };
    let mut reversed = prompts.clone();
    reversed.reverse();
    let mut back = generate(&decoder, &reversed, &greedy);
    back.reverse();
    assert_eq!(back, generate(&decoder, &prompts, &greedy));
}

#[test]
fn a_full_context_ends_a_sequence() {
    let decoder = decoder("llama_tied_gqa");
    let found = generate(&decoder, &prompts(1, |_| 60), &GenerateConfig::default());
    assert_eq!((found[0].tokens.len(), found[0].finish_reason), (5, FinishReason::Context));
    assert_eq!(found[0].finish_reason.name(), "length");
}

#[test]
fn tokens_are_told_as_they_come_and_breaking_keeps_what_there_is() {
    let decoder = decoder("llama_tied_gqa");
    let prompts = prompts(3, |_| 4);
    let config = GenerateConfig { max_new_tokens: 6, batch_size: 2, ..GenerateConfig::default() };
    let (mut told, mut ends) = (vec![Vec::new(); 3], 0);
    let all = decoder.generate(&prompts, &config, &mut |new: NewToken| {
        told[new.prompt].push(new.token);
        ends += usize::from(new.finished.is_some());
        ControlFlow::Continue(())
    });
    let all = all.unwrap();
    assert_eq!(told, all.iter().map(|g| g.tokens.clone()).collect::<Vec<_>>());
    assert_eq!(ends, 3);
    let mut left = 5;
    let broken = decoder.generate(&prompts, &config, &mut |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let broken = broken.unwrap();
    assert_eq!(broken[0].tokens, all[0].tokens[..3]);
    assert!(broken.iter().all(|g| g.finish_reason == FinishReason::Interrupted));
    assert!(broken[2].tokens.is_empty());
}

#[test]
fn bad_requests_are_refused_before_anything_is_generated() {
    let decoder = decoder("llama_tied_gqa");
    let refused = |prompts: &[Vec<u32>], config: GenerateConfig| {
        decoder.generate(prompts, &config, &mut |_| panic!("generated")).unwrap_err().to_string()
    };
    let good = GenerateConfig::default;
    assert!(refused(&[vec![1], vec![]], good()).contains("sequence 1"));
    assert!(refused(&[vec![1; 65]], good()).contains("65 tokens"));
    assert!(refused(&[vec![64]], good()).contains("token id 64"));
    assert!(refused(&[vec![1]], GenerateConfig { temperature: f64::NAN, ..good() }).contains("temperature"));
    assert!(refused(&[vec![1]], GenerateConfig { top_p: 0.0, ..good() }).contains("top_p"));
    assert!(refused(&[vec![1]], GenerateConfig { max_new_tokens: 0, ..good() }).contains("max_new_tokens"));
    assert!(generate(&decoder, &[], &good()).is_empty());
}

#[test]
fn in_bf16_neither_batch_nor_cache_changes_a_token() {
    for case in CASES {
        let mut decoder = decoder(case);
        decoder.compute_in(DType::Bf16, false).unwrap();
        let prompts = prompts(9, |i| 2 + 5 * i);
        let config =
            |batch_size| GenerateConfig { max_new_tokens: 12, batch_size, ..GenerateConfig::default() };
        let together = generate(&decoder, &prompts, &config(9));
        assert_eq!(together, generate(&decoder, &prompts, &config(2)), "{case}");
        for (prompt, generated) in prompts.iter().zip(together) {
            let mut sequence = prompt.clone();
            for token in generated.tokens {
                let logits = decoder.logits(&sequence).unwrap();
                let last = logits.row(sequence.len() - 1);
                let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                // With the cache, sums are taken in other tiles: logits that are nearly equal may change places.
                let apart = best - last[token as usize];
                assert!(apart < 0.02 * best.abs().max(1.0), "{case}: {apart} of {best}");
                sequence.push(token);
            }
        }
    }
}
