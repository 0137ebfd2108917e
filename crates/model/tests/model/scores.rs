//! Scalar heads: scores, every gradient and ten steps against PyTorch; what must not change a score; both layouts in and
//! out.

use crate::fixture::{
    Expected, FAMILIES, Numbers, decoder, directory, engine, gradient_distance, largest_norm, relative_max,
};
use bso_durable::Seed;
use bso_model::{
    Activations, DType, Decoder, Gradients, ModelConfig, NormaliserRule, Optimiser, OptimiserKind,
    PackedBatch, PromptResponse, Reads, ScoreHead, ScoreKind, Workspace,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One model of each family: arrangements that differ in what precedes the head are left out.
fn cases() -> Vec<&'static str> {
    let twice = ["llama_untied_biases_sharded", "gpt_neox_sequential"];
    FAMILIES.into_iter().filter(|case| !twice.contains(case)).collect()
}

fn safe_rlhf() -> PathBuf {
    directory("scores/safe_rlhf")
}

/// The numbers of a case, by the name of its file.
fn expected(case: &str) -> Expected {
    Expected::from_file(&directory("scores").join(format!("{case}.safetensors")))
}

/// The case's language model with PyTorch's scalar head.
fn scorer(case: &str, expected: &Expected) -> Decoder {
    let mut decoder = decoder(case);
    decoder.replace_head(ScoreHead::sequence_classification(), Seed::new(0)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    decoder.save(dir.path(), DType::F32).unwrap();
    set_head(dir.path(), expected.floats("head"));
    Decoder::load(dir.path(), engine()).unwrap()
}

/// Writes other numbers into `score.weight` of a saved model.
fn set_head(dir: &Path, values: &[f32]) {
    let file = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let parsed: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let start = header + parsed["score.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes[start..start + data.len()].copy_from_slice(&data);
    std::fs::write(file, bytes).unwrap();
}

fn pack(decoder: &Decoder, sequences: &[(Vec<u32>, Vec<u32>)], share: bool) -> PackedBatch {
    let borrowed: Vec<PromptResponse<'_>> = sequences.iter().map(|(p, r)| (&p[..], &r[..])).collect();
    let mut batch = PackedBatch::empty();
    batch.pack_for(decoder.config().reads(), &borrowed, share).unwrap();
    batch
}

fn scores(decoder: &Decoder, batch: &PackedBatch) -> Vec<f64> {
    decoder.scores_in(batch, &mut Workspace::new()).unwrap()
}

fn scores_and_gradients(
    decoder: &Decoder,
    batch: &PackedBatch,
    weights: &[f32],
    mut activations: Activations,
) -> (Vec<f64>, Gradients) {
    let mut gradients = Gradients::zeros(decoder).unwrap();
    let scores = decoder.forward(batch, &mut activations).unwrap().to_vec();
    decoder.backward(batch, &mut activations, weights, &mut gradients).unwrap();
    (scores, gradients)
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|x| *x as f32).collect()
}

/// Every case with its model and numbers; safe-rlhf's layout is the last.
fn every_case() -> impl Iterator<Item = (&'static str, Decoder, Expected)> {
    let of_family = cases().into_iter().map(|case| {
        let expected = expected(case);
        (case, scorer(case, &expected), expected)
    });
    of_family.chain(std::iter::once_with(|| {
        ("safe_rlhf", Decoder::load(&safe_rlhf(), engine()).unwrap(), Expected::at(&safe_rlhf()))
    }))
}

#[test]
fn a_critics_values_and_gradients_are_those_of_the_scores_of_every_beginning() {
    for (case, decoder, expected) in every_case() {
        let sequences = expected.sequences();
        let beginnings: Vec<(Vec<u32>, Vec<u32>)> =
            sequences.iter().flat_map(|(p, r)| (0..r.len()).map(|t| (p.clone(), r[..t].to_vec()))).collect();
        let ends: Vec<PromptResponse<'_>> = beginnings.iter().map(|(p, r)| (&p[..], &r[..])).collect();
        let whole: Vec<PromptResponse<'_>> = sequences.iter().map(|(p, r)| (&p[..], &r[..])).collect();
        let weights: Vec<f32> = (0..ends.len()).map(|i| (i as f32 * 1.7).sin()).collect();
        let mut batch = PackedBatch::empty();
        batch.pack_for(Reads::End { pad: None }, &ends, false).unwrap();
        let (scores, wanted) = scores_and_gradients(&decoder, &batch, &weights, Activations::new());
        for share in [false, true] {
            batch.pack_for(Reads::Values, &whole, share).unwrap();
            let values = decoder.token_outputs_in(&batch, &mut Workspace::new()).unwrap().concat();
            let apart = relative_max(&narrow(&values), &narrow(&scores));
            assert!(apart < 1e-5, "{case}: values differ by {apart}");
            let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
            decoder.forward(&batch, &mut activations).unwrap();
            assert_eq!(activations.token_outputs(), values, "{case}");
            decoder.backward_tokens(&batch, &mut activations, &weights, &mut gradients).unwrap();
            let largest = largest_norm(wanted.iter().map(|(_, gradient)| gradient.numbers()));
            for ((name, found), (_, wanted)) in gradients.iter().zip(wanted.iter()) {
                let apart = gradient_distance(&found.numbers(), &wanted.numbers(), largest);
                assert!(apart < 2e-5, "{case}: {name} differs by {apart}");
            }
            let few = decoder.backward_tokens(&batch, &mut activations, &[1.0], &mut gradients);
            assert!(few.unwrap_err().to_string().contains("scored tokens"));
        }
        assert!(
            decoder
                .forward(&PackedBatch::from_sequences(&whole, false).unwrap(), &mut Activations::new())
                .is_err()
        );
    }
}

#[test]
fn one_weight_for_all_tokens_of_a_sequence_is_the_weight_of_the_sequence() {
    let case = "llama_tied_gqa";
    let (decoder, sequences) = (decoder(case), expected(case).sequences());
    let batch = pack(&decoder, &sequences, true);
    let weights: Vec<f32> = (0..sequences.len()).map(|i| i as f32 - 0.5).collect();
    let of_tokens: Vec<f32> =
        sequences.iter().zip(&weights).flat_map(|((_, r), w)| vec![*w; r.len()]).collect();
    let mut activations = Activations::new();
    let log_probs = decoder.forward(&batch, &mut activations).unwrap().to_vec();
    let tokens = decoder.token_log_probs(&batch).unwrap();
    assert_eq!(activations.token_outputs(), tokens.concat());
    assert_eq!(log_probs, tokens.iter().map(|t| t.iter().sum::<f64>()).collect::<Vec<_>>());
    let (mut whole, mut single) = (Gradients::zeros(&decoder).unwrap(), Gradients::zeros(&decoder).unwrap());
    decoder.backward(&batch, &mut activations, &weights, &mut whole).unwrap();
    decoder.forward(&batch, &mut activations).unwrap();
    decoder.backward_tokens(&batch, &mut activations, &of_tokens, &mut single).unwrap();
    for ((name, whole), (_, single)) in whole.iter().zip(single.iter()) {
        assert_eq!(whole.numbers(), single.numbers(), "{name}");
    }
}

#[test]
fn scores_and_every_gradient_are_those_of_pytorch() {
    for (case, decoder, expected) in every_case() {
        for share in [false, true] {
            let batch = pack(&decoder, &expected.sequences(), share);
            let weights = expected.floats("weights");
            let (found, gradients) = scores_and_gradients(&decoder, &batch, weights, Activations::new());
            let apart = relative_max(&narrow(&found), expected.floats("score"));
            assert!(apart < 1e-5, "{case}: scores differ by {apart}");
            assert_eq!(scores(&decoder, &batch), found, "{case}: without gradients");
            let found: std::collections::BTreeMap<_, _> =
                gradients.stored(&decoder).unwrap().into_iter().collect();
            assert_eq!(found.len(), expected.gradients().count(), "{case}: another set of parameters");
            let largest = largest_norm(expected.gradients().map(|(_, gradient)| gradient));
            let mut worst = (0.0, "");
            for (name, expected) in expected.gradients() {
                let difference = gradient_distance(&found[name], expected, largest);
                if difference >= worst.0 {
                    worst = (difference, name);
                }
            }
            let (difference, name) = worst;
            println!(
                "{case}, shared: {share}: scores within {apart:.1e}, gradients within {difference:.1e} ({name})"
            );
            assert!(difference < 1e-4, "{case}: gradient of {name} differs by {difference}");
            assert_eq!((gradients.non_finite().unwrap(), gradients.all_zero().unwrap()), (None, Vec::new()));
        }
    }
}

#[test]
fn ten_steps_give_the_losses_of_pytorch() {
    for (case, mut decoder, expected) in every_case() {
        let batch = pack(&decoder, &expected.sequences(), true);
        let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.1, &decoder).unwrap();
        let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
        let mut losses = Vec::new();
        for _ in 0..11 {
            let scores = decoder.forward(&batch, &mut activations).unwrap().to_vec();
            let (mut loss, mut weights) = (0.0, Vec::new());
            for pair in scores.chunks(2) {
                let margin = pair[0] - pair[1];
                loss += (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
                let slope = (-0.5 / (1.0 + margin.exp())) as f32;
                weights.extend([slope, -slope]);
            }
            losses.push(loss / 2.0);
            gradients.zero().unwrap();
            decoder.backward(&batch, &mut activations, &weights, &mut gradients).unwrap();
            optimiser.step(&mut decoder, &gradients, 1.0, 1e-3).unwrap();
        }
        let expected = expected.floats("loss.adamw");
        let apart =
            losses.iter().zip(expected).map(|(l, e)| (l / f64::from(*e) - 1.0).abs()).fold(0.0, f64::max);
        println!(
            "{case}: losses from {:.4} to {:.6} differ by at most {apart:.1e} relative",
            losses[0], losses[10]
        );
        assert!(apart < 2e-4, "{case}: {losses:?} against {expected:?}");
    }
}

#[test]
fn gradients_are_the_differences_of_scores() {
    let (dir, saved) = (safe_rlhf(), tempfile::tempdir().unwrap());
    let (decoder, expected) = (Decoder::load(&dir, engine()).unwrap(), Expected::at(&dir));
    let (batch, weights) = (pack(&decoder, &expected.sequences(), true), expected.floats("weights"));
    let (_, gradients) = scores_and_gradients(&decoder, &batch, weights, Activations::new());
    let squares = gradients.squared_norm().unwrap();
    // Along the gradient the weighted sum of scores grows by its squared norm: a step of SGD up and one down.
    let moved = |factor: f64| -> f64 {
        decoder.save(saved.path(), DType::F32).unwrap();
        let mut moved = Decoder::load(saved.path(), engine()).unwrap();
        let mut sgd = Optimiser::new(OptimiserKind::Sgd, 0.0, &moved).unwrap();
        sgd.step(&mut moved, &gradients, factor, 1.0).unwrap();
        scores(&moved, &batch).iter().zip(weights).map(|(score, weight)| score * f64::from(*weight)).sum()
    };
    let step = 1e-3 / squares.sqrt();
    let slope = (moved(-step) - moved(step)) / (2.0 * step);
    println!("slope {slope} along the gradient, squared norm {squares}");
    assert!((slope / squares - 1.0).abs() < 1e-3, "{slope} and {squares}");
}

#[test]
fn packing_and_recomputing_change_no_bit_and_sharing_stays_within_rounding() {
    for (case, mut decoder, expected) in every_case() {
        for (dtype, rounding) in [(DType::F32, 1e-5), (DType::Bf16, 2e-2)] {
            decoder.compute_in(dtype, true).unwrap();
            let (sequences, weights) = (expected.sequences(), expected.floats("weights"));
            let apart = pack(&decoder, &sequences, false);
            let (packed, _) = scores_and_gradients(&decoder, &apart, weights, Activations::new());
            let near = |score: f64, other: f64| (score - other).abs() < rounding * other.abs().max(0.5);
            for (sequence, score) in sequences.iter().zip(&packed) {
                let alone = scores(&decoder, &pack(&decoder, std::slice::from_ref(sequence), false))[0];
                assert!(near(alone, *score), "{case}, {}: {alone} alone, {score} packed", dtype.name());
                assert!(dtype == DType::F32 || alone == *score, "{case}: products of bf16 add up row by row");
            }
            let shared = pack(&decoder, &sequences, true);
            assert!(shared.rows() < apart.rows());
            let (of_shared, gradients) = scores_and_gradients(&decoder, &shared, weights, Activations::new());
            for (shared, packed) in of_shared.iter().zip(&packed) {
                assert!(near(*shared, *packed), "{case}, {}: {shared} shared, {packed}", dtype.name());
            }
            let again = scores_and_gradients(&decoder, &shared, weights, Activations::checkpointed());
            assert_eq!(again.0, of_shared, "{case}: recomputed");
            assert!(again.1.iter().eq(gradients.iter()), "{case}: gradients recomputed");
        }
    }
}

#[test]
fn bf16_stays_near_f32() {
    for (case, mut decoder, expected) in every_case() {
        let (batch, weights) = (pack(&decoder, &expected.sequences(), true), expected.floats("weights"));
        let exact = scores_and_gradients(&decoder, &batch, weights, Activations::new());
        decoder.compute_in(DType::Bf16, true).unwrap();
        let rounded = scores_and_gradients(&decoder, &batch, weights, Activations::new());
        let apart = relative_max(&narrow(&rounded.0), &narrow(&exact.0));
        let largest = largest_norm(exact.1.iter().map(|(_, gradient)| gradient.numbers()));
        let mut worst = 0.0_f64;
        for ((_, exact), (_, rounded)) in exact.1.iter().zip(rounded.1.iter()) {
            worst = worst.max(gradient_distance(&rounded.numbers(), &exact.numbers(), largest));
        }
        println!("{case}: scores within {apart:.1e}, gradients within {worst:.1e}");
        // A score is read off one row, so that no rounding averages out.
        assert!(apart < 5e-2 && worst < 1e-1, "{case}: {apart}, {worst}");
    }
}

#[test]
fn safe_rlhf_models_load_with_their_normaliser_and_are_saved_as_they_came() {
    let (dir, saved) = (safe_rlhf(), tempfile::tempdir().unwrap());
    let (decoder, expected) = (Decoder::load(&dir, engine()).unwrap(), Expected::at(&dir));
    let head = decoder.config().score.clone().unwrap();
    assert_eq!((head.kind, head.bias, decoder.config().class()), (ScoreKind::Reward, true, "LlamaForScore"));
    assert_eq!(head.normaliser.rule, NormaliserRule::ExponentialMovingAverage { momentum: 0.9 });
    // Statistics beside the weights go before those in config.json.
    assert_eq!((head.normaliser.mean, head.normaliser.var, head.normaliser.count), (0.375, 2.25, 96));
    let raw = scores(&decoder, &pack(&decoder, &expected.sequences(), true));
    let normalised: Vec<f32> = raw.iter().map(|score| head.normalise(*score) as f32).collect();
    assert!(relative_max(&normalised, expected.floats("normalised")) < 1e-5);

    decoder.save(saved.path(), DType::F32).unwrap();
    let read = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    let (before, after) = (read(&dir), read(saved.path()));
    let [before, after] =
        [&before, &after].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    assert_eq!(before.len(), after.len());
    for (name, tensor) in before.tensors() {
        let again = after.tensor(&name).unwrap();
        assert_eq!(
            (tensor.dtype(), tensor.shape(), tensor.data()),
            (again.dtype(), again.shape(), again.data()),
            "{name}"
        );
    }
    let config: Value =
        serde_json::from_slice(&std::fs::read(saved.path().join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["mean"], &config["var"]), (&json!([0.375]), &json!([2.25])));
    assert_eq!((&config["score_bias"], &config["do_normalize"]), (&json!(true), &json!(true)));

    decoder.save(saved.path(), DType::Bf16).unwrap();
    let coarse = Decoder::load(saved.path(), engine()).unwrap();
    assert_eq!(coarse.config().score, decoder.config().score, "statistics are never rounded");
}

#[test]
fn statistics_follow_training_and_are_saved() {
    let saved = tempfile::tempdir().unwrap();
    let rule = NormaliserRule::ExponentialMovingAverage { momentum: 0.9 };
    let mut decoder = decoder(FAMILIES[0]);
    decoder.replace_head(ScoreHead::safe_rlhf(ScoreKind::Cost, rule), Seed::new(3)).unwrap();
    decoder.update_normaliser(&[1.0, 3.0]);
    decoder.save(saved.path(), DType::F32).unwrap();
    let head = Decoder::load(saved.path(), engine()).unwrap().config().score.clone().unwrap();
    let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
    assert!(close(head.normaliser.mean, 0.2) && close(head.normaliser.var, 1.1));
    assert_eq!((head.kind, head.normaliser.count, head.normaliser.applied), (ScoreKind::Cost, 2, false));
}

#[test]
fn a_new_head_follows_its_seed_and_keeps_the_body() {
    for case in ["llama_tied_gqa", "qwen2_untied_yarn"] {
        let of = |seed| {
            let mut decoder = decoder(case);
            decoder.replace_head(ScoreHead::sequence_classification(), Seed::new(seed)).unwrap();
            decoder
        };
        let (one, again, other, whole) = (of(1), of(1), of(2), decoder(case));
        assert!(one.parameters().eq(again.parameters()));
        let body = one.parameters().count() - 1;
        assert!(one.parameters().take(body).eq(other.parameters().take(body)));
        assert!(one.parameters().take(body).eq(whole.parameters().take(body)));
        let (name, head) = one.parameters().last().unwrap();
        assert_eq!((name, head.rows(), head.cols()), ("score.weight", 1, 24));
        assert_ne!(head, other.parameters().last().unwrap().1);
    }
}

fn read_config(changes: &Value) -> Result<ModelConfig, String> {
    let mut value = json!({
        "architectures": ["LlamaForSequenceClassification"], "model_type": "llama", "hidden_size": 24,
        "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64,
        "id2label": {"0": "LABEL_0"}, "pad_token_id": 9
    });
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    ModelConfig::from_value(value, Path::new("config.json")).map_err(|e| e.to_string())
}

#[test]
fn heads_that_give_more_than_one_score_and_unknown_settings_are_refused_by_name() {
    assert_eq!(read_config(&json!({})).unwrap().reads(), Reads::End { pad: Some(9) });
    let scorer = read_config(&json!({"architectures": ["LlamaForScore"]})).unwrap();
    assert_eq!((scorer.reads(), scorer.score.unwrap().bias), (Reads::End { pad: None }, true));
    let earlier = read_config(&json!({"architectures": ["LlamaModelForScore"]})).unwrap();
    assert!(!earlier.score.unwrap().bias, "earlier versions had none where nothing is said");
    let earlier = read_config(&json!({"architectures": ["LlamaModelForScore"], "bias": true})).unwrap();
    assert!(earlier.score.unwrap().bias);
    for (changes, named) in [
        (json!({"id2label": {"0": "a", "1": "b"}}), "num_labels = 2"),
        (json!({"id2label": null}), "num_labels = 2"),
        (json!({"num_labels": 5}), "num_labels = 5"),
        (json!({"architectures": ["Qwen2ForSequenceClassification"]}), "Qwen2ForSequenceClassification"),
        (json!({"architectures": ["LlamaForScore"], "score_dim": 2}), "score_dim = 2"),
        (json!({"architectures": ["LlamaForScore"], "score_type": "joy"}), "score_type = \"joy\""),
        (json!({"architectures": ["LlamaForScore"], "normalizer_type": "Batch"}), "normalizer_type"),
        (json!({"architectures": ["LlamaForScore"], "mean": "big"}), "mean"),
        (
            json!({"architectures": ["LlamaForScore"], "normalizer_type": "ExponentialMovingAverage", "momentum": 1}),
            "momentum = 1",
        ),
    ] {
        let error = read_config(&changes).unwrap_err();
        assert!(error.contains(named) && error.contains("config.json"), "{error}");
    }
}

#[test]
fn each_head_refuses_what_only_the_other_can_do() {
    let expected = expected(FAMILIES[0]);
    let (language, scorer) = (decoder(FAMILIES[0]), scorer(FAMILIES[0], &expected));
    let (responses, ends) =
        (crate::fixture::pack(&expected.sequences(), true), pack(&scorer, &expected.sequences(), true));
    let says = |result: Result<(), bso_model::ModelError>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let (one_score, no_head) =
        ("a LlamaForSequenceClassification gives one score", "a LlamaForCausalLM has no scalar head");
    says(scorer.log_probs(&responses).map(drop), one_score);
    says(scorer.token_log_probs(&responses).map(drop), one_score);
    says(scorer.logits(&[5, 6]).map(drop), one_score);
    says(scorer.forward(&responses, &mut Activations::new()).map(drop), one_score);
    let generation =
        scorer.generate(&[vec![5]], &Default::default(), &mut |_| std::ops::ControlFlow::Continue(()));
    says(generation.map(drop), one_score);
    let gguf = scorer.save_gguf(Path::new("never"), bso_model::GgufType::F32, "x", Vec::new());
    says(gguf, "scalar head");
    says(language.forward(&ends, &mut Activations::new()).map(drop), no_head);
    says(language.scores_in(&ends, &mut Workspace::new()).map(drop), no_head);
    let mut again = scorer.clone();
    says(again.replace_head(ScoreHead::sequence_classification(), Seed::new(0)), "already");
    let dirs = [safe_rlhf(), safe_rlhf()];
    says(bso_model::interpolate_models(&dirs, &[0.5, 0.5], Path::new("never"), DType::F32), "normaliser");
    let mut smol = decoder("smollm3_no_rope");
    let safe_rlhf = ScoreHead::safe_rlhf(ScoreKind::Reward, NormaliserRule::Fixed);
    says(smol.replace_head(safe_rlhf, Seed::new(0)), "smollm3");
}

const OPEN: &str = "
import sys, torch, transformers
for directory in sys.argv[1:]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    model.config.pad_token_id = 0
    ids = torch.tensor([[5, 9, 33, 12, 60, 3, 3, 41], [7, 7, 8, 0, 0, 0, 0, 0]])
    with torch.no_grad(): logits = model(ids, attention_mask=(ids != 0).long()).logits
    assert model.config.num_labels == 1 and logits.shape == (2, 1)
    print(' '.join(repr(x) for x in logits.flatten().tolist()))
";

/// safe-rlhf's class, from its definition.
const OPEN_SAFE_RLHF: &str = "
import json, sys, torch, transformers
from safetensors.torch import load_file
directory = sys.argv[1]
config, tensors = json.load(open(directory + '/config.json')), load_file(directory + '/model.safetensors')
assert config['architectures'] == ['LlamaForScore'] and config['score_dim'] == 1 and config['score_bias'] is True
assert config['score_type'] == 'cost' and config['do_normalize'] is False and config['momentum'] == 0.9
assert tensors['normalizer.count'].dtype == torch.int64 and tensors['score_head.weight'].shape == (1, 24)
body = transformers.LlamaModel(transformers.LlamaConfig.from_pretrained(directory)).float().eval()
body.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith('model.')}, strict=True)
for ids in [5, 9, 33, 12, 60, 3, 3, 41], [7, 7, 8]:
    with torch.no_grad(): hidden = body(torch.tensor([ids])).last_hidden_state[0, -1]
    print((hidden @ tensors['score_head.weight'][0] + tensors['score_head.bias'][0]).item())
";

#[test]
fn transformers_and_the_definition_of_safe_rlhf_open_what_is_saved_with_equal_scores() {
    let python = std::env::var("BSO_PYTHON").unwrap_or_default();
    if python.is_empty() {
        println!("skipped: BSO_PYTHON does not name a Python with torch and transformers");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let sequences = [(vec![5, 9, 33], vec![12, 60, 3, 3, 41]), (vec![7], vec![7, 8])];
    let save = |case: &str, head: ScoreHead, name: &str| -> (PathBuf, Vec<f32>) {
        let (mut decoder, dir) = (decoder(case), root.path().join(name));
        decoder.replace_head(head, Seed::new(7)).unwrap();
        std::fs::create_dir(&dir).unwrap();
        decoder.save(&dir, DType::F32).unwrap();
        (dir, narrow(&scores(&decoder, &pack(&decoder, &sequences, false))))
    };
    let run = |script: &str, directories: &[&PathBuf]| -> Vec<Vec<f32>> {
        let output = Command::new(&python).args(["-c", script]).args(directories).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split(' ').map(|x| x.parse().unwrap()).collect()).collect()
    };
    let save_case = |case| save(case, ScoreHead::sequence_classification(), case);
    let saved: Vec<_> = cases().into_iter().map(save_case).collect();
    let found = run(OPEN, &saved.iter().map(|(dir, _)| dir).collect::<Vec<_>>());
    assert_eq!(found.len(), cases().len());
    for ((case, (_, ours)), theirs) in cases().iter().zip(&saved).zip(&found) {
        let apart = relative_max(ours, theirs);
        println!("{case}: scores differ by {apart:.1e} relative");
        assert!(apart < 1e-5, "{case}: {ours:?} and {theirs:?}");
    }
    let rule = NormaliserRule::ExponentialMovingAverage { momentum: 0.9 };
    let (dir, ours) = save(FAMILIES[0], ScoreHead::safe_rlhf(ScoreKind::Cost, rule), "safe_rlhf");
    assert!(relative_max(&ours, &run(OPEN_SAFE_RLHF, &[&dir]).concat()) < 1e-5);
}
