//! Adapters: beside PEFT's numbers, what they leave alone, and what must not change a result.

use crate::fixture::{
    Expected, FAMILIES, Numbers, directory, engine, log_probs_and_gradients, pack, relative_l2, relative_max,
};
use bso_durable::Seed;
use bso_model::{
    Activations, AdapterConfig, DType, Decoder, Gradients, ModelDirectory, Optimiser, OptimiserKind,
    PackedBatch, Targets,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Adapters that `fixtures/make_adapters.py` had PEFT make, each with its base's fixture.
const CASES: [(&str, &str); 13] = [
    ("lora_names", "llama_untied_biases_sharded"),
    ("rslora_all_linear", "qwen2_tied_gqa"),
    ("lora_pattern_embedding_and_head", "llama_tied_gqa"),
    ("lora_embedding_of_tied", "qwen2_tied_gqa"),
    ("dora_biases", "llama_untied_biases_sharded"),
    ("dora_tied", "llama_tied_gqa"),
    ("lora_stacked", "phi3_partial_rotary"),
    ("dora_stacked", "phi3_partial_rotary"),
    ("dora_interleaved", "gpt_neox_parallel"),
    ("lora_transposed", "gpt2_learned_positions"),
    ("lora_head", "llama_untied_biases_sharded"),
    ("rslora_head_alone", "gpt_neox_parallel"),
    ("dora_head", "llama_untied_biases_sharded"),
];

/// Adapters beside a scalar head, on language models.
const SCORES: [(&str, &str); 3] = [
    ("score_of_language_model", "llama_tied_gqa"),
    ("score_all_linear", "qwen2_untied_yarn"),
    ("score_stacked", "gpt_neox_parallel"),
];

fn adapter_dir(case: &str) -> PathBuf {
    directory("adapters").join(case)
}

fn adapted(case: &str, base: &str) -> Decoder {
    let mut decoder = decoder(base);
    decoder.load_adapter(&adapter_dir(case)).unwrap();
    decoder
}

fn settings() -> AdapterConfig {
    AdapterConfig {
        r: 3,
        alpha: 6.0,
        dropout: 0.0,
        targets: Targets::AllLinear,
        rslora: false,
        dora: false,
        modules_to_save: Vec::new(),
    }
}

/// A new adapter after some steps, so that nothing in it is zero.
fn trained(base: &str, settings: &AdapterConfig, dtype: DType) -> Decoder {
    let mut decoder = decoder(base);
    decoder.attach_adapter(settings, Seed::new(5)).unwrap();
    decoder.compute_in(dtype, true).unwrap();
    let (batch, weights) = sequences(base, true);
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
    let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &decoder).unwrap();
    for step in 0..3 {
        gradients.zero().unwrap();
        activations.drop_by(Some(Seed::new(step)));
        decoder.forward(&batch, &mut activations).unwrap();
        decoder.backward(&batch, &mut activations, &weights, &mut gradients).unwrap();
        optimiser.step(&mut decoder, &gradients, 1.0, 0.02).unwrap();
    }
    decoder
}

fn sequences(base: &str, share: bool) -> (PackedBatch, Vec<f32>) {
    let expected = Expected::of(base);
    (pack(&expected.sequences(), share), expected.floats("weights").to_vec())
}

#[test]
fn an_adapter_made_by_peft_gives_its_logits_log_probs_and_gradients() {
    for (case, base) in CASES {
        let (of_base, expected) = (Expected::of(base), Expected::at(&adapter_dir(case)));
        let decoder = adapted(case, base);
        let (prompt, response) = of_base.sequences().remove(0);
        let logits = decoder.logits(&[prompt, response].concat()).unwrap();
        let difference = relative_max(&logits.numbers(), expected.floats("logits"));
        println!("{case}: logits differ by {difference:.1e} relative");
        assert!(difference < 2e-5, "{case}: {difference}");
        for share in [false, true] {
            let (batch, weights) = sequences(base, share);
            let (log_probs, gradients) = log_probs_and_gradients(&decoder, &batch, &weights);
            for (found, expected) in log_probs.iter().zip(expected.floats("logp")) {
                assert!((found / f64::from(*expected) - 1.0).abs() < 1e-5, "{case}: {found} {expected}");
            }
            let found: BTreeMap<_, _> = gradients.stored(&decoder).unwrap().into_iter().collect();
            assert_eq!(found.len(), expected.gradients().count(), "{case}: another set of trained tensors");
            let mut worst = (0.0, "");
            for (name, expected) in expected.gradients() {
                let difference = relative_l2(&found[name], expected);
                if difference > worst.0 {
                    worst = (difference, name);
                }
            }
            println!(
                "{case}, prompts shared: {share}: gradients differ by at most {:.1e} ({})",
                worst.0, worst.1
            );
            assert!(worst.0 < 1e-4, "{case}: {worst:?}");
        }
    }
}

#[test]
fn ten_training_steps_give_the_losses_of_pytorch() {
    for (case, base) in CASES {
        let expected = Expected::at(&adapter_dir(case));
        let losses =
            crate::parity::ten_losses(adapted(case, base), &Expected::of(base), OptimiserKind::ADAMW, 1e-2);
        // Losses near zero carry the rounding of margins in the tens.
        let differences = losses.iter().zip(expected.floats("loss.adamw"));
        let largest = differences.map(|(l, e)| (l - f64::from(*e)).abs() / f64::from(*e).max(1e-2));
        let largest = largest.fold(0.0, f64::max);
        println!("{case}: losses from {:.4} to {:.6} differ by at most {largest:.1e}", losses[0], losses[10]);
        assert!(largest < 2e-3, "{case}: {losses:?} against {:?}", expected.floats("loss.adamw"));
    }
}

#[test]
fn a_new_adapter_changes_no_log_prob_and_only_its_own_tensors_are_trained() {
    for dora in [false, true] {
        for dtype in [DType::F32, DType::Bf16] {
            let base = "llama_untied_biases_sharded";
            let (batch, weights) = sequences(base, true);
            let mut plain = decoder(base);
            plain.compute_in(dtype, true).unwrap();
            let mut decoder = decoder(base);
            decoder.attach_adapter(&AdapterConfig { dora, ..settings() }, Seed::new(5)).unwrap();
            decoder.compute_in(dtype, true).unwrap();
            let (log_probs, gradients) = log_probs_and_gradients(&decoder, &batch, &weights);
            let expected = plain.log_probs(&batch).unwrap();
            if dora {
                for (found, expected) in log_probs.iter().zip(&expected) {
                    assert!((found / expected - 1.0).abs() < if dtype == DType::F32 { 1e-6 } else { 5e-3 });
                }
            } else {
                assert_eq!(log_probs, expected, "not one bit");
            }
            assert_eq!(gradients.non_finite().unwrap(), None);
            assert!(gradients.iter().all(|(name, _)| name.contains("lora_")));
            for (name, gradient) in gradients.iter() {
                let is_zero = gradient.numbers().iter().all(|x| *x == 0.0);
                assert_eq!(is_zero, name.contains("lora_A"), "{name}: b is zero, so a rests");
                assert_eq!(decoder.rests(name).unwrap(), is_zero, "{name}");
            }
            let before: Vec<_> = plain.parameters().map(|(_, array)| array.clone()).collect();
            let numbers: usize = gradients.iter().map(|(_, gradient)| gradient.len()).sum();
            assert_eq!(numbers, decoder.trained_count(), "no memory for the gradients of frozen weights");
            let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.1, &decoder).unwrap();
            optimiser.step(&mut decoder, &gradients, 1.0, 0.1).unwrap();
            for ((name, after), before) in decoder.parameters().zip(&before) {
                assert_eq!(after, before, "{name} is frozen");
            }
            assert_ne!(decoder.log_probs(&batch).unwrap(), log_probs);
            let file = tempfile::NamedTempFile::new().unwrap();
            optimiser.save(file.path(), &decoder).unwrap();
            let size = std::fs::metadata(file.path()).unwrap().len() as usize;
            assert!(size < 8 * numbers + 20_000, "the state holds the adapter's moments only: {size} bytes");
            Optimiser::load(file.path(), OptimiserKind::ADAMW, 0.1, &decoder).unwrap();
        }
    }
}

#[test]
fn packing_recomputing_and_sharing_do_not_change_an_adapters_gradients() {
    for dora in [false, true] {
        for dtype in [DType::F32, DType::Bf16] {
            let base = "qwen2_tied_gqa";
            let head = Targets::Pattern("lm_head|.*_proj".to_owned());
            let (base, targets) =
                if dora { (base, Targets::AllLinear) } else { ("llama_untied_biases_sharded", head) };
            let decoder = trained(base, &AdapterConfig { dora, dropout: 0.3, targets, ..settings() }, dtype);
            let (batch, weights) = sequences(base, true);
            let run = |mut activations: Activations, seed: Option<u64>| {
                let mut gradients = Gradients::zeros(&decoder).unwrap();
                activations.drop_by(seed.map(Seed::new));
                let log_probs = decoder.forward(&batch, &mut activations).unwrap().to_vec();
                decoder.backward(&batch, &mut activations, &weights, &mut gradients).unwrap();
                let gradients: Vec<_> = gradients.iter().map(|(_, array)| array.clone()).collect();
                (log_probs, gradients)
            };
            let kept = run(Activations::new(), Some(1));
            assert_eq!(kept, run(Activations::checkpointed(), Some(1)), "masks are found again, to the bit");
            assert_ne!(kept.0, run(Activations::new(), Some(2)).0, "another step drops others");
            let without = run(Activations::new(), None);
            assert_ne!(kept.0, without.0);
            assert_eq!(without.0, decoder.log_probs(&batch).unwrap(), "nothing is dropped outside training");
            let many: Vec<_> = (0..1100_u32).map(|i| (vec![1], vec![i % 7 + 2])).collect();
            let batch = pack(&many, false);
            let rows_at_a_time = [Activations::new(), Activations::checkpointed()].map(|mut activations| {
                activations.drop_by(Some(Seed::new(1)));
                decoder.forward(&batch, &mut activations).unwrap().to_vec()
            });
            for (all, part) in rows_at_a_time[0].iter().zip(&rows_at_a_time[1]) {
                assert!((all / part - 1.0).abs() < 3e-6, "a part of the rows drops what all would");
            }
            let (apart, weights) = sequences(base, false);
            let apart = log_probs_and_gradients(&decoder, &apart, &weights);
            let tolerance = if dtype == DType::F32 { 1e-5 } else { 3e-2 };
            for ((found, (name, expected)), _) in without.1.iter().zip(apart.1.iter()).zip(0..) {
                let difference = relative_l2(&found.numbers(), &expected.numbers());
                assert!(difference < tolerance, "{name}: {difference}");
            }
        }
    }
}

#[test]
fn bf16_stays_near_f32() {
    for (case, base) in CASES {
        let (batch, weights) = sequences(base, true);
        let mut decoder = adapted(case, base);
        let exact = log_probs_and_gradients(&decoder, &batch, &weights);
        decoder.compute_in(DType::Bf16, true).unwrap();
        let rounded = log_probs_and_gradients(&decoder, &batch, &weights);
        let apart = exact.0.iter().zip(&rounded.0).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
        let gradients = exact.1.iter().zip(rounded.1.iter());
        let worst =
            gradients.map(|((_, a), (_, b))| relative_l2(&b.numbers(), &a.numbers())).fold(0.0, f64::max);
        println!("{case}: log-probs within {apart:.1e}, gradients within {worst:.1e}");
        assert!(apart < 1e-2 && worst < 6e-2, "{case}: {apart} {worst}");
    }
}

#[test]
fn merging_without_an_adapter_changes_nothing() {
    let mut decoder = decoder(FAMILIES[0]);
    let before = decoder.logits(&[5, 9, 33]).unwrap();
    decoder.merge_adapter().unwrap();
    assert_eq!(decoder.logits(&[5, 9, 33]).unwrap(), before);
}

#[test]
fn merging_keeps_the_logits_and_leaves_a_plain_model() {
    let tokens = [5, 9, 33, 12, 60, 3, 3, 41];
    for (case, base) in CASES {
        let beside = adapted(case, base).logits(&tokens).unwrap();
        let mut merged = adapted(case, base);
        merged.merge_adapter().unwrap();
        assert!(merged.adapter().is_none());
        let difference = relative_max(&merged.logits(&tokens).unwrap().numbers(), &beside.numbers());
        println!("{case}: merged logits differ by {difference:.1e} relative");
        assert!(difference < 1e-5, "{case}: {difference}");
        let dir = tempfile::tempdir().unwrap();
        merged.save(dir.path(), DType::F32).unwrap();
        let again = Decoder::load(dir.path(), engine()).unwrap();
        assert_eq!(
            again.logits(&tokens).unwrap(),
            merged.logits(&tokens).unwrap(),
            "{case}: saved and loaded"
        );
        let opened = Decoder::load(&adapter_dir(case), engine()).unwrap();
        assert!(opened.parameters().eq(merged.parameters()), "{case}: an adapter's folder opens as a model");
        merged.compute_in(DType::Bf16, true).unwrap();
        let mut late = adapted(case, base);
        late.compute_in(DType::Bf16, true).unwrap();
        late.merge_adapter().unwrap();
        assert_eq!(late.logits(&tokens).unwrap(), merged.logits(&tokens).unwrap(), "{case}: packed again");
    }
}

#[test]
fn a_saved_adapter_loads_to_the_bit_and_its_base_is_found() {
    let base = directory("llama_tied_gqa");
    for dora in [false, true] {
        let modules_to_save = vec!["embed_tokens".to_owned(), "lm_head".to_owned()];
        let settings = AdapterConfig { dora, rslora: true, dropout: 0.1, modules_to_save, ..settings() };
        let decoder = trained("llama_tied_gqa", &settings, DType::F32);
        let dir = tempfile::tempdir().unwrap();
        decoder.save_adapter(dir.path(), &base, DType::F32).unwrap();
        let found = ModelDirectory::find(dir.path()).unwrap();
        assert_eq!((found.base.as_path(), found.adapter.as_deref()), (base.as_path(), Some(dir.path())));
        let mut again = Decoder::load(&base, engine()).unwrap();
        again.load_adapter(dir.path()).unwrap();
        assert!(again.parameters().eq(decoder.parameters()));
        again.load_adapter(dir.path()).unwrap();
        assert!(again.parameters().eq(decoder.parameters()), "a second time, in place of the first");
        assert!(decoder.save(dir.path(), DType::F32).is_err(), "whole weights would lose the adapter");
    }
}

#[test]
fn a_new_adapter_starts_as_peft_starts_it_and_repeats_by_seed() {
    let attach = |seed| {
        let mut decoder = decoder("llama_tied_gqa");
        decoder.attach_adapter(&AdapterConfig { r: 64, ..settings() }, Seed::new(seed)).unwrap();
        decoder
    };
    let first = attach(1);
    assert!(first.parameters().eq(attach(1).parameters()));
    assert!(!first.parameters().eq(attach(2).parameters()));
    for (name, array) in first.parameters().filter(|(name, _)| name.contains("lora_A")) {
        let bound = 1.0 / (array.cols() as f32).sqrt();
        let largest = array.numbers().iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest <= bound && largest > 0.98 * bound, "{name}: {largest} of {bound}");
        let mean = array.numbers().iter().sum::<f32>() / array.len() as f32;
        assert!(mean.abs() < 0.1 * bound, "{name}: {mean}");
    }
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut AdapterConfig), part: &str| {
        let mut settings = settings();
        change(&mut settings);
        let error =
            decoder("llama_tied_gqa").attach_adapter(&settings, Seed::new(1)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&|s| s.targets = Targets::Names(vec!["query_key_value".into()]), "query_key_value");
    refused(&|s| s.targets = Targets::Names(vec!["lm_head".into()]), "lora_modules_to_save: [lm_head]");
    let head = || Targets::Names(vec!["lm_head".into()]);
    let refused_untied = |change: &dyn Fn(&mut AdapterConfig), part: &str| {
        let mut settings = AdapterConfig { targets: head(), ..settings() };
        change(&mut settings);
        let mut decoder = decoder("llama_untied_biases_sharded");
        let error = decoder.attach_adapter(&settings, Seed::new(1)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused_untied(&|s| s.modules_to_save = vec!["lm_head".into()], "both adapted and trained whole");
    refused_untied(&|s| s.modules_to_save = vec!["score".into()], "\"score\"");
    refused(&|s| s.modules_to_save = vec!["norm".into()], "\"norm\"");
    refused(&|s| s.r = 0, "rank 0");
    refused(&|s| s.alpha = f64::NAN, "alpha");
    let with_adapter = trained("llama_tied_gqa", &settings(), DType::F32);
    let error = with_adapter.generate(&[vec![5]], &bso_model::GenerateConfig::default(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    assert!(error.unwrap_err().to_string().contains("merge"));
}

/// A copy of a case's folder whose config goes through `change`.
fn changed(case: &str, change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let (from, to) = (adapter_dir(case), tempfile::tempdir().unwrap());
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    let path = to.path().join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let base = from.join(config["base_model_name_or_path"].as_str().unwrap());
    config["base_model_name_or_path"] = base.to_str().unwrap().into();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    to
}

#[test]
fn hostile_and_foreign_adapters_are_refused_by_name() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 12] = [
        (|c| c["r"] = 5.into(), "shape"),
        (|c| c["r"] = 4_000_000_000_000_u64.into(), "rank"),
        (|c| c["r"] = (-1).into(), "r = -1"),
        (|c| c["lora_alpha"] = "much".into(), "lora_alpha"),
        (|c| c["peft_type"] = "IA3".into(), "IA3"),
        (|c| c["bias"] = "all".into(), "bias"),
        (|c| c["rank_pattern"] = serde_json::json!({"q_proj": 8}), "rank_pattern"),
        (|c| c["layers_to_transform"] = serde_json::json!([0]), "layers_to_transform"),
        (|c| c["init_lora_weights"] = "pissa".into(), "init_lora_weights"),
        (|c| c["use_something_new"] = true.into(), "use_something_new"),
        (|c| c["target_modules"] = serde_json::json!(["q_proj"]), "only the tensors"),
        (|c| c["base_model_name_or_path"] = "someone/some-model".into(), "someone/some-model"),
    ];
    for (change, part) in cases {
        let dir = changed("lora_names", change);
        let error = Decoder::load(dir.path(), engine()).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
    let another = changed("lora_names", |c| {
        c["base_model_name_or_path"] = directory("llama_rope_llama3").to_str().unwrap().into();
    });
    let error = Decoder::load(another.path(), engine()).unwrap_err().to_string();
    assert!(error.contains("lora_") && error.contains("shape"), "{error}");
    let chained = changed("lora_names", |c| {
        c["base_model_name_or_path"] = adapter_dir("dora_tied").to_str().unwrap().into();
    });
    assert!(Decoder::load(chained.path(), engine()).unwrap_err().to_string().contains("adapter itself"));
    let cut = changed("lora_names", |_| ());
    let weights = cut.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 9]).unwrap();
    assert!(Decoder::load(cut.path(), engine()).unwrap_err().to_string().contains("truncated"));
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(cut.path().join("adapter_model.bin"), "x").unwrap();
    assert!(Decoder::load(cut.path(), engine()).unwrap_err().to_string().contains("safetensors"));
}

const LOGITS: &str = "
import sys, torch, transformers, peft
for base, adapter in zip(*[iter(sys.argv[1:])] * 2):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation='eager')
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad(): logits = model(torch.tensor([[5, 9, 33, 12, 60, 3, 3, 41]])).logits[0]
    print(' '.join(repr(x) for x in logits.flatten().tolist()))
";

/// Of each pair of a base's and an adapter's folder, by one process.
fn peft_numbers(python: &str, script: &str, folders: &[[PathBuf; 2]]) -> Vec<Vec<f32>> {
    let output = Command::new(python).args(["-c", script]).args(folders.iter().flatten()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().map(|x| x.parse().unwrap()).collect()).collect()
}

/// `a b` of `[n, k]` and `[k, m]`, row by row.
fn product(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let m = b.len() / k;
    let dot =
        |row: &[f32], col: usize| (0..k).map(|i| f64::from(row[i]) * f64::from(b[i * m + col])).sum::<f64>();
    a.chunks_exact(k).flat_map(|row| (0..m).map(move |col| dot(row, col) as f32)).collect()
}

fn transposed(a: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| a.iter().skip(col).step_by(cols).copied()).collect()
}

#[test]
fn in_every_family_an_adapters_gradients_follow_from_the_merged_weights() {
    for base in FAMILIES {
        let settings = settings();
        let decoder = trained(base, &settings, DType::F32);
        let (batch, weights) = sequences(base, true);
        let (log_probs, gradients) = log_probs_and_gradients(&decoder, &batch, &weights);
        let mut merged = decoder.clone();
        merged.merge_adapter().unwrap();
        let (expected, whole) = log_probs_and_gradients(&merged, &batch, &weights);
        for (found, expected) in log_probs.iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{base}: {found} {expected}");
        }
        let (whole, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (whole.iter().collect(), gradients.iter().collect());
        let parameters: BTreeMap<_, _> = decoder.parameters().collect();
        // Layers that are stored as one matrix share `a`, which gets the sum of their gradients.
        let (mut of_a, mut layers, mut worst) = (BTreeMap::<String, Vec<f32>>::new(), 0, 0.0_f64);
        for (name, b) in parameters.iter().filter(|(name, _)| name.ends_with("lora_B.weight")) {
            let of_matrix = name.replace("lora_B", "lora_A");
            let shared = of_matrix.trim_end_matches(".lora_A.weight").rsplit_once('.').unwrap().0;
            let names = [of_matrix.clone(), format!("{shared}.lora_A.weight")];
            let of_matrix = names.into_iter().find(|name| parameters.contains_key(name.as_str())).unwrap();
            let module = name.trim_start_matches("base_model.model.").trim_end_matches(".lora_B.weight");
            let (a, dw) = (parameters[of_matrix.as_str()], whole[format!("{module}.weight").as_str()]);
            let (outputs, inputs) = (dw.rows(), dw.cols());
            let scale = settings.scale() as f32;
            let dw: Vec<f32> = dw.numbers().iter().map(|x| scale * x).collect();
            let da = product(&transposed(&b.numbers(), b.cols()), &dw, outputs);
            let db = product(&dw, &transposed(&a.numbers(), a.cols()), inputs);
            worst = worst.max(relative_l2(&found[name].numbers(), &db));
            let sum = of_a.entry(of_matrix).or_insert_with(|| vec![0.0; da.len()]);
            sum.iter_mut().zip(da).for_each(|(sum, da)| *sum += da);
            layers += 1;
        }
        for (name, da) in &of_a {
            worst = worst.max(relative_l2(&found[name.as_str()].numbers(), da));
        }
        assert_eq!(found.len(), layers + of_a.len(), "{base}: nothing else is trained");
        println!("{base}: gradients of {layers} layers within {worst:.1e}");
        assert!(layers >= 12 && worst < 1e-4, "{base}: {layers} {worst}");
    }
}

#[test]
fn beside_a_scalar_head_scores_and_gradients_are_those_of_peft() {
    for (case, base) in SCORES {
        let (of_base, expected) = (Expected::of(base), Expected::at(&adapter_dir(case)));
        let mut decoder = decoder(base);
        let dir = adapter_dir(case);
        decoder.fit_adapters_head(&dir).unwrap();
        decoder.load_adapter(&dir).unwrap();
        let sequences = of_base.sequences();
        let borrowed: Vec<_> = sequences.iter().map(|(p, r)| (&p[..], &r[..])).collect();
        let mut batch = PackedBatch::empty();
        batch.pack_for(decoder.config().reads(), &borrowed, true).unwrap();
        let (found, gradients) = log_probs_and_gradients(&decoder, &batch, of_base.floats("weights"));
        let near = |found: &[f64]| {
            let found: Vec<f32> = found.iter().map(|x| *x as f32).collect();
            relative_max(&found, expected.floats("score"))
        };
        assert!(near(&found) < 1e-5, "{case}: {found:?}");
        let stored: BTreeMap<_, _> = gradients.stored(&decoder).unwrap().into_iter().collect();
        assert_eq!(stored.len(), expected.gradients().count(), "{case}: another set of trained tensors");
        for (name, expected) in expected.gradients() {
            let difference = relative_l2(&stored[name], expected);
            assert!(difference < 1e-4, "{case}: gradient of {name} differs by {difference}");
        }
        let opened = Decoder::load(&dir, engine()).unwrap();
        assert_eq!(bso_model::ModelConfig::from_dir(&dir).unwrap().class(), opened.config().class());
        let merged = opened.scores_in(&batch, &mut bso_model::Workspace::new()).unwrap();
        println!("{case}: scores within {:.1e}, merged {:.1e}", near(&found), near(&merged));
        assert!(near(&merged) < 1e-5, "{case}: {merged:?}");
        let copy = tempfile::tempdir().unwrap();
        decoder.save_adapter(copy.path(), &directory(base), DType::F32).unwrap();
        assert!(Decoder::load(copy.path(), engine()).unwrap().parameters().eq(opened.parameters()));
        // In bf16 the head stays in f32.
        decoder.compute_in(DType::Bf16, true).unwrap();
        let rounded = log_probs_and_gradients(&decoder, &batch, of_base.floats("weights")).0;
        assert!(near(&rounded) < 2e-2, "{case}: {rounded:?}");
    }
    let error = Decoder::load_adapter(&mut decoder("llama_tied_gqa"), &adapter_dir(SCORES[0].0)).unwrap_err();
    assert!(error.to_string().contains("\"score\""), "{error}");
    let without = changed(SCORES[0].0, |c| c["modules_to_save"] = serde_json::Value::Null);
    let error = Decoder::load(without.path(), engine()).unwrap_err().to_string();
    assert!(error.contains("neither it nor its base"), "{error}");
    let mut scorer = decoder("llama_untied_biases_sharded");
    scorer.replace_head(bso_model::ScoreHead::sequence_classification(), Seed::new(1)).unwrap();
    let targets = Targets::Pattern(".*".into());
    let error = scorer.attach_adapter(&AdapterConfig { targets, ..settings() }, Seed::new(1)).unwrap_err();
    assert!(error.to_string().contains("trained whole"), "{error}");
}

const SCORES_OF: &str = "
import sys, torch, transformers, peft
for base, adapter in zip(*[iter(sys.argv[1:])] * 2):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32, attn_implementation='eager')
    model.config.pad_token_id = None
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad(): print(model(torch.tensor([[5, 9, 33, 12, 60, 3, 3, 41]])).logits.item())
";

#[test]
fn peft_opens_an_adapter_beside_a_scalar_head_with_equal_scores() {
    let python = std::env::var("BSO_PYTHON").unwrap_or_default();
    if !has_peft(&python) {
        println!("skipped: BSO_PYTHON does not name a Python with torch, transformers and peft");
        return;
    }
    let tokens = [5, 9, 33, 12, 60, 3, 3, 41];
    let (mut found, mut folders, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
    for (base, dora) in [("llama_tied_gqa", false), ("gpt_neox_parallel", true), ("gemma3_two_ropes", false)]
    {
        let mut scorer = decoder(base);
        scorer.replace_head(bso_model::ScoreHead::sequence_classification(), Seed::new(1)).unwrap();
        let modules_to_save = vec!["score".to_owned()];
        let settings = AdapterConfig { dora, modules_to_save, ..settings() };
        scorer.attach_adapter(&settings, Seed::new(5)).unwrap();
        let mut batch = PackedBatch::empty();
        batch.pack_for(scorer.config().reads(), &[(&tokens[..3], &tokens[3..])], false).unwrap();
        let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &scorer).unwrap();
        for _ in 0..3 {
            let gradients = log_probs_and_gradients(&scorer, &batch, &[1.0]).1;
            optimiser.step(&mut scorer, &gradients, 1.0, 0.02).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        scorer.save_adapter(dir.path(), &directory(base), DType::F32).unwrap();
        found.push(scorer.scores_in(&batch, &mut bso_model::Workspace::new()).unwrap()[0] as f32);
        folders.push([directory(base), dir.path().to_owned()]);
        dirs.push(dir);
    }
    let expected: Vec<f32> = peft_numbers(&python, SCORES_OF, &folders).into_iter().flatten().collect();
    println!("scores {found:?}, in PEFT {expected:?}");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} {expected}");
    }
}

/// Whether it names a Python with PEFT.
fn has_peft(python: &str) -> bool {
    !python.is_empty()
        && Command::new(python)
            .args(["-c", "import peft"])
            .output()
            .is_ok_and(|output| output.status.success())
}

#[test]
fn a_head_that_is_not_the_bases_is_refused() {
    let (case, base) = ("lora_head", "llama_untied_biases_sharded");
    let another = changed(case, |_| ());
    let mut file = std::fs::read(another.path().join("adapter_model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let parsed: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
    let at = &parsed["base_model.model.lm_head.base_layer.weight"]["data_offsets"][0];
    file[header + at.as_u64().unwrap() as usize + 2] ^= 1;
    std::fs::write(another.path().join("adapter_model.safetensors"), file).unwrap();
    let error = decoder(base).load_adapter(another.path()).unwrap_err().to_string();
    assert!(error.contains("lm_head.base_layer.weight") && error.contains("other numbers"), "{error}");
}

#[test]
fn peft_opens_what_is_trained_here_with_equal_logits() {
    let python = std::env::var("BSO_PYTHON").unwrap_or_default();
    if !has_peft(&python) {
        println!("skipped: BSO_PYTHON does not name a Python with torch, transformers and peft");
        return;
    }
    let both = vec!["embed_tokens".to_owned(), "lm_head".to_owned()];
    let names = Targets::Names(vec!["v_proj".to_owned(), "self_attn.o_proj".to_owned()]);
    let pattern = Targets::Pattern(r".*\.0\..*(k|down)_proj".to_owned());
    let mut cases = vec![
        ("llama_untied_biases_sharded", settings(), DType::F32),
        ("qwen2_tied_gqa", AdapterConfig { rslora: true, targets: names, ..settings() }, DType::Bf16),
        (
            "llama_tied_gqa",
            AdapterConfig { modules_to_save: both, targets: pattern, ..settings() },
            DType::F32,
        ),
        ("llama_untied_biases_sharded", AdapterConfig { dora: true, ..settings() }, DType::F32),
        (
            "gemma3_two_ropes",
            AdapterConfig { dora: true, modules_to_save: vec!["embed_tokens".to_owned()], ..settings() },
            DType::F32,
        ),
    ];
    let head = Targets::Names(vec!["lm_head".to_owned(), "q_proj".to_owned()]);
    let head = |dora| AdapterConfig { targets: head.clone(), dora, ..settings() };
    cases.extend([false, true].map(|dora| ("llama_untied_biases_sharded", head(dora), DType::F32)));
    let head = Targets::Names(vec!["lm_head".to_owned()]);
    cases.push((
        "gpt_neox_parallel",
        AdapterConfig { targets: head, rslora: true, ..settings() },
        DType::F32,
    ));
    cases.extend(FAMILIES.map(|base| (base, settings(), DType::F32)));
    let fused = ["phi3_partial_rotary", "gpt_neox_parallel", "gpt2_learned_positions"];
    cases.extend(fused.map(|base| (base, AdapterConfig { dora: true, ..settings() }, DType::F32)));
    let dirs: Vec<_> = cases.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let (mut found, mut folders) = (Vec::new(), Vec::new());
    for ((base, settings, dtype), dir) in cases.iter().zip(&dirs) {
        let decoder = trained(base, settings, DType::F32);
        decoder.save_adapter(dir.path(), &directory(base), *dtype).unwrap();
        let mut saved = crate::fixture::decoder(base);
        saved.load_adapter(dir.path()).unwrap();
        found.push(saved.logits(&[5, 9, 33, 12, 60, 3, 3, 41]).unwrap());
        folders.push([directory(base), dir.path().to_owned()]);
    }
    let expected = peft_numbers(&python, LOGITS, &folders);
    assert_eq!(expected.len(), cases.len());
    for (((base, settings, _), found), expected) in cases.iter().zip(&found).zip(&expected) {
        let difference = relative_max(&found.numbers(), expected);
        println!("{base}, {settings}: logits in PEFT differ by {difference:.1e} relative");
        assert!(difference < 2e-5, "{base}, {settings}: {difference}");
    }
}

fn decoder(base: &str) -> Decoder {
    crate::fixture::decoder(base)
}

#[test]
fn a_base_in_bf16_alone_gives_the_same_steps_and_is_not_merged() {
    for base in ["llama_tied_gqa", "llama_untied_biases_sharded", "gpt2_learned_positions"] {
        let start = |alone: bool| {
            let mut decoder = Decoder::load_base(&directory(base), engine()).unwrap();
            decoder.attach_adapter(&settings(), Seed::new(5)).unwrap();
            if alone {
                decoder.freeze_base_in(DType::Bf16).unwrap();
                decoder.freeze_base_in(DType::Bf16).unwrap();
            } else {
                decoder.compute_in(DType::Bf16, true).unwrap();
            }
            decoder
        };
        let ([mut whole, mut alone], (batch, weights)) = ([false, true].map(start), sequences(base, true));
        let kept = |decoder: &Decoder| decoder.parameters().filter(|(_, array)| !array.is_empty()).count();
        assert!(kept(&alone) < kept(&whole), "{base}: matrices are given up");
        for decoder in [&mut whole, &mut alone] {
            let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, decoder).unwrap();
            for _ in 0..3 {
                let (_, gradients) = log_probs_and_gradients(decoder, &batch, &weights);
                optimiser.step(decoder, &gradients, -0.1, 1e-2).unwrap();
            }
        }
        assert_eq!(whole.log_probs(&batch).unwrap(), alone.log_probs(&batch).unwrap(), "{base}");
        let [of_whole, of_alone] = [&whole, &alone].map(|decoder| {
            let dir = tempfile::tempdir().unwrap();
            decoder.save_adapter(dir.path(), &directory(base), DType::F32).unwrap();
            std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap()
        });
        assert!(of_whole == of_alone, "{base}: the same adapter, to the bit");
        for error in [
            alone.merge_adapter().unwrap_err(),
            alone.compute_in(DType::F32, true).unwrap_err(),
            alone.freeze_base_in(DType::F32).unwrap_err(),
        ] {
            assert!(error.to_string().contains("in bf16 alone"), "{error}");
        }
    }
}
