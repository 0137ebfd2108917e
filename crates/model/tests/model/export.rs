//! Models in other files: combinations of several, and GGUF, read back with the format's own reader.

use crate::fixture::{Numbers, decoder, directory, engine, relative_max};
use bso_durable::Seed;
use bso_model::{DType, Decoder, Engine, GgufType, GgufValue, ModelConfig, interpolate_models};
use std::process::Command;
use std::sync::Arc;

const TOKENS: [u32; 8] = [5, 9, 33, 12, 60, 3, 3, 41];

#[test]
fn a_combination_is_the_sum_of_the_weights_and_wrong_ones_are_refused() {
    let base = directory("llama_untied_biases_sharded");
    let (other, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut second = decoder("llama_untied_biases_sharded");
    second.load_adapter(&directory("adapters").join("lora_names")).unwrap();
    second.merge_adapter().unwrap();
    second.save(other.path(), DType::F32).unwrap();
    let models = [base.clone(), other.path().to_owned()];
    interpolate_models(&models, &[0.25, 0.75], out.path(), DType::F32).unwrap();
    let (a, b) = (Decoder::load(&base, engine()).unwrap(), Decoder::load(other.path(), engine()).unwrap());
    let mixed = Decoder::load(out.path(), engine()).unwrap();
    for (((name, mixed), (_, a)), (_, b)) in mixed.parameters().zip(a.parameters()).zip(b.parameters()) {
        for ((mixed, a), b) in mixed.numbers().iter().zip(a.numbers()).zip(b.numbers()) {
            assert_eq!(*mixed, (0.25 * f64::from(a) + 0.75 * f64::from(b)) as f32, "{name}");
        }
    }
    interpolate_models(&models, &[1.0, 0.0], out.path(), DType::F32).unwrap();
    let first = Decoder::load(out.path(), engine()).unwrap();
    assert!(first.parameters().eq(a.parameters()));

    let refused = |models: &[std::path::PathBuf], weights: &[f64], part: &str| {
        let error = interpolate_models(models, weights, out.path(), DType::F32).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&models, &[0.5], "1 weights for 2 models");
    refused(&models, &[0.5, 0.6], "add up to 1.1");
    refused(&models, &[f64::NAN, 1.0], "add up to");
    refused(&models[..1], &[1.0], "at least two");
    refused(&[base.clone(), directory("llama_tied_gqa")], &[0.5, 0.5], "is not as in");
    refused(&[base, directory("adapters").join("lora_names")], &[0.5, 0.5], "merge it");
}

#[test]
fn what_gguf_cannot_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    let path = directory("qwen2_tied_gqa").join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let windows = serde_json::json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 0, "layer_types": null});
    config.as_object_mut().unwrap().extend(windows.as_object().unwrap().clone());
    let config = ModelConfig::from_value(config, &path).unwrap();
    let sliding = Decoder::random(config, Seed::new(3), engine()).unwrap();
    for (decoder, part) in [
        (decoder("llama_rope_dynamic"), "dynamic"),
        (sliding, "sliding windows"),
        (decoder("qwen3_tied_gqa"), "qwen3"),
        (decoder("gpt2_learned_positions"), "gpt2"),
    ] {
        let error = decoder.save_gguf(&file, GgufType::F32, "m", Vec::new()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!file.exists());
}

#[test]
fn a_gguf_file_is_the_same_wherever_the_model_is() {
    let (dir, case) = (tempfile::tempdir().unwrap(), "llama_untied_biases_sharded");
    let on_cpu = Decoder::load(&directory(case), Arc::new(Engine::cpu(Some(1)).unwrap())).unwrap();
    let written = |decoder: &Decoder, name: &str| {
        let file = dir.path().join(name);
        decoder.save_gguf(&file, GgufType::Q8_0, "m", Vec::new()).unwrap();
        std::fs::read(file).unwrap()
    };
    assert!(written(&decoder(case), "here.gguf") == written(&on_cpu, "cpu.gguf"));
}

/// Compares every value with the weights that transformers reads, through the reader's own dequantisation.
const READ: &str = r"
import sys, numpy as np, torch, transformers
from gguf import GGUFReader, dequantize
names = {'token_embd': 'model.embed_tokens', 'output_norm': 'model.norm', 'output': 'lm_head', 'attn_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm',
         'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj', 'attn_v': 'self_attn.v_proj', 'attn_output': 'self_attn.o_proj',
         'ffn_gate': 'mlp.gate_proj', 'ffn_up': 'mlp.up_proj', 'ffn_down': 'mlp.down_proj'}
for path, base, kind in zip(*[iter(sys.argv[1:])] * 3):
    reader = GGUFReader(path)
    config = transformers.AutoConfig.from_pretrained(base)
    weights = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields['general.architecture'] == config.model_type, fields
    assert fields[config.model_type + '.block_count'] == config.num_hidden_layers
    assert fields['tokenizer.ggml.tokens'] == ['a', 'é', '\n'], fields['tokenizer.ggml.tokens']
    worst, seen = 0.0, set()
    for tensor in reader.tensors:
        if tensor.name == 'rope_freqs.weight': continue
        parts = tensor.name.split('.')
        name = f'model.layers.{parts[1]}.{names[parts[2]]}.{parts[3]}' if parts[0] == 'blk' else f'{names[parts[0]]}.{parts[1]}'
        seen.add(name)
        want = weights[name].numpy()
        found = dequantize(tensor.data, tensor.tensor_type).reshape(want.shape)
        if config.model_type == 'llama' and parts[0] == 'blk' and parts[2] in ('attn_q', 'attn_k'):
            heads = config.num_attention_heads if parts[2] == 'attn_q' else config.num_key_value_heads
            found = found.reshape(heads, want.shape[0] // heads // 2, 2, *want.shape[1:]).swapaxes(1, 2).reshape(want.shape)
        scale = np.abs(want).max() if kind == 'q8_0' and want.ndim == 2 else np.abs(want)
        worst = max(worst, float((np.abs(found - want) / np.maximum(scale, 1e-4)).max()))
    missing = {n for n in weights if not n.endswith('inv_freq')} - seen - ({'lm_head.weight'} if config.tie_word_embeddings else set())
    assert not missing, missing
    print(worst)
";

#[test]
fn a_gguf_reader_opens_what_is_written_with_equal_values() {
    let Some(python) = python_with_gguf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let texts = ["a", "é", "\n"].map(str::to_owned).to_vec();
    let metadata = vec![("tokenizer.ggml.tokens".to_owned(), GgufValue::Texts(texts))];
    let (mut files, mut command) = (Vec::new(), Command::new(python));
    command.args(["-c", READ]);
    // q8_0: half of a step of 1/127 of the block's largest value, and the step itself rounded to f16.
    let q8_0 = 1.0 / 254.0 + 1.0 / 2048.0;
    for (kind, tolerance) in [(GgufType::F32, 0.0), (GgufType::F16, 1.0 / 1024.0), (GgufType::Q8_0, q8_0)] {
        for base in
            ["llama_untied_biases_sharded", "llama_tied_gqa", "llama_rope_llama3", "qwen2_untied_yarn"]
        {
            let file = dir.path().join(format!("{base}-{}.gguf", kind.name()));
            decoder(base).save_gguf(&file, kind, base, metadata.clone()).unwrap();
            command.arg(&file).arg(directory(base)).arg(kind.name());
            files.push((base, kind, tolerance));
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<f64> = text.split_whitespace().map(|worst| worst.parse().unwrap()).collect();
    assert_eq!(found.len(), files.len());
    for (worst, (base, kind, tolerance)) in found.into_iter().zip(files) {
        println!("{base} as {}: values within {worst:.1e}", kind.name());
        assert!(worst <= tolerance, "{base} as {}: {worst}", kind.name());
    }
}

const LOGITS: &str = r"
import sys, torch, transformers
folder, file = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
with torch.no_grad(): logits = model(torch.tensor([[5, 9, 33, 12, 60, 3, 3, 41]])).logits[0]
print(' '.join(repr(x) for x in logits.flatten().tolist()))
";

#[test]
fn transformers_computes_the_same_logits_from_a_gguf_file() {
    let Some(python) = python_with_gguf() else { return };
    let dir = tempfile::tempdir().unwrap();
    // transformers takes the width of Qwen 2's heads from the hidden size, whatever the file says.
    let path = directory("qwen2_tied_gqa").join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["hidden_size"] = 32.into();
    let config = ModelConfig::from_value(config, &path).unwrap();
    let qwen = Decoder::random(config, Seed::new(3), engine()).unwrap();
    for (base, decoder) in [("llama", decoder("llama_tied_gqa")), ("qwen2", qwen)] {
        for (kind, tolerance) in [(GgufType::F32, 1e-5), (GgufType::F16, 1e-2)] {
            let texts = (0..64).map(|id| format!("t{id}")).collect();
            let tokens = vec![
                ("tokenizer.ggml.model".to_owned(), GgufValue::Text("gpt2".into())),
                ("tokenizer.ggml.tokens".to_owned(), GgufValue::Texts(texts)),
            ];
            decoder.save_gguf(&dir.path().join("m.gguf"), kind, base, tokens).unwrap();
            let output =
                Command::new(&python).args(["-c", LOGITS]).arg(dir.path()).arg("m.gguf").output().unwrap();
            assert!(output.status.success(), "{base}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            let expected: Vec<f32> = text.split_whitespace().map(|x| x.parse().unwrap()).collect();
            let difference = relative_max(&decoder.logits(&TOKENS).unwrap().numbers(), &expected);
            println!("{base} as {}: logits differ by {difference:.1e} relative", kind.name());
            assert!(difference < tolerance, "{base} as {}: {difference}", kind.name());
        }
    }
}

fn python_with_gguf() -> Option<String> {
    let python = std::env::var("BSO_PYTHON").ok().filter(|python| !python.is_empty());
    let has_gguf = |python: &String| {
        Command::new(python)
            .args(["-c", "import gguf, transformers"])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    let found = python.filter(has_gguf);
    if found.is_none() {
        println!("skipped: BSO_PYTHON does not name a Python with torch, transformers and gguf");
    }
    found
}

#[test]
fn a_merged_adapter_in_bf16_stays_near_its_logits() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = directory("adapters").join("dora_biases");
    let merged = Decoder::load(&adapter, engine()).unwrap();
    merged.save_sharded(dir.path(), DType::Bf16, 9_000).unwrap();
    let again = Decoder::load(dir.path(), engine()).unwrap();
    let difference =
        relative_max(&again.logits(&TOKENS).unwrap().numbers(), &merged.logits(&TOKENS).unwrap().numbers());
    assert!(difference < 3e-2, "{difference}");
}
