//! What is written is what another reader reads: the reference implementation of the format, and transformers.

use crate::fixture::{CASES, FAMILIES, Numbers, decoder, engine, relative_max};
use bso_durable::Seed;
use bso_model::{DType, Decoder, ModelConfig};
use std::path::Path;
use std::process::Command;

fn weight_files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| n.starts_with("model"));
    names.sort();
    names
}

#[test]
fn saved_weights_load_equal_single_and_sharded_and_leave_no_other_layout_behind() {
    for case in FAMILIES {
        let (decoder, dir) = (decoder(case), tempfile::tempdir().unwrap());
        decoder.save_sharded(dir.path(), DType::F32, 9_000).unwrap();
        assert!(weight_files(dir.path()).len() > 3);
        let again = Decoder::load(dir.path(), engine()).unwrap();
        assert!(decoder.parameters().eq(again.parameters()));
        decoder.save(dir.path(), DType::F32).unwrap();
        assert_eq!(weight_files(dir.path()), ["model.safetensors"]);
        let again = Decoder::load(dir.path(), engine()).unwrap();
        assert!(decoder.parameters().eq(again.parameters()));
        decoder.save_sharded(dir.path(), DType::F32, 9_000).unwrap();
        assert!(!weight_files(dir.path()).contains(&"model.safetensors".to_owned()));
    }
}

#[test]
fn the_reference_implementation_reads_what_is_saved_and_tied_weights_are_written_once() {
    let (decoder, dir) = (decoder("llama_tied_gqa"), tempfile::tempdir().unwrap());
    decoder.save(dir.path(), DType::F32).unwrap();
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), decoder.parameters().count());
    for (name, array) in decoder.parameters() {
        let view = read.tensor(name).unwrap();
        let data: Vec<u8> = array.numbers().iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(view.data(), data, "{name}");
        assert_eq!(view.shape().len(), if array.rows() == 1 { 1 } else { 2 }, "{name}");
    }
    assert!(read.tensor("lm_head.weight").is_err());
}

#[test]
fn half_precision_rounds_to_nearest_and_says_so_in_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let fine = decoder("llama_tied_gqa");
    for (dtype, name, step) in [(DType::Bf16, "bfloat16", 1.0 / 256.0), (DType::F16, "float16", 1.0 / 2048.0)]
    {
        fine.save(dir.path(), dtype).unwrap();
        let coarse = Decoder::load(dir.path(), engine()).unwrap();
        for ((_, fine), (_, coarse)) in fine.parameters().zip(coarse.parameters()) {
            assert!(
                fine.numbers()
                    .iter()
                    .zip(coarse.numbers())
                    .all(|(a, b)| (a - b).abs() <= a.abs() * step + 1e-7)
            );
        }
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(config["dtype"], name);
        assert_eq!(config["attention_dropout"], 0.0, "unknown fields are kept");
    }
}

#[test]
fn a_failed_save_names_the_path() {
    let missing = tempfile::tempdir().unwrap().path().join("gone");
    let error = decoder("llama_tied_gqa").save(&missing, DType::F32).unwrap_err().to_string();
    assert!(error.contains("gone"), "{error}");
}

#[test]
fn random_weights_repeat_by_seed() {
    let config = || ModelConfig::from_dir(&crate::fixture::directory("qwen2_untied_yarn")).unwrap();
    let random = |seed| Decoder::random(config(), Seed::new(seed), engine()).unwrap();
    assert!(random(1).parameters().eq(random(1).parameters()));
    assert!(!random(1).parameters().eq(random(2).parameters()));
    let decoder = random(1);
    let (_, embedding) = decoder.parameters().next().unwrap();
    let variance = embedding.numbers().iter().map(|x| f64::from(x * x)).sum::<f64>() / embedding.len() as f64;
    assert!((variance.sqrt() / 0.25 - 1.0).abs() < 0.05, "{variance}");
}

const LOGITS: &str = "
import sys, torch, transformers
for directory in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad(): logits = model(torch.tensor([[5, 9, 33, 12, 60, 3, 3, 41]])).logits[0]
    print(' '.join(repr(x) for x in logits.flatten().tolist()))
";

#[test]
fn transformers_opens_what_is_saved_with_equal_logits() {
    let python = std::env::var("BSO_PYTHON").unwrap_or_default();
    if python.is_empty() {
        println!("skipped: BSO_PYTHON does not name a Python with torch and transformers");
        return;
    }
    let (root, kinds) = (tempfile::tempdir().unwrap(), [(DType::F32, 9_000), (DType::Bf16, u64::MAX)]);
    let saved: Vec<_> = CASES.into_iter().flat_map(|case| kinds.map(|kind| (case, kind))).collect();
    let directory = |case: &str, dtype: DType| root.path().join(format!("{case}-{}", dtype.name()));
    for (case, (dtype, shard)) in &saved {
        std::fs::create_dir(directory(case, *dtype)).unwrap();
        decoder(case).save_sharded(&directory(case, *dtype), *dtype, *shard).unwrap();
    }
    let directories = saved.iter().map(|(case, (dtype, _))| directory(case, *dtype));
    let output = Command::new(&python).args(["-c", LOGITS]).args(directories).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), saved.len());
    for ((case, (dtype, _)), line) in saved.iter().zip(text.lines()) {
        let expected: Vec<f32> = line.split_whitespace().map(|x| x.parse().unwrap()).collect();
        let again = Decoder::load(&directory(case, *dtype), engine()).unwrap();
        let found = again.logits(&[5, 9, 33, 12, 60, 3, 3, 41]).unwrap();
        let difference = relative_max(&found.numbers(), &expected);
        println!("{case} as {}: logits differ by {difference:.1e} relative", dtype.name());
        assert!(difference < 1e-5, "{case}");
    }
}
