//! Damaged and hostile weight files: each refused with file, tensor and remedy, never a panic.

use crate::fixture::{directory, engine};
use bso_model::Decoder;
use serde_json::{Value, json};
use std::path::Path;

const CASE: &str = "llama_tied_gqa";
const NORM: &str = "model.norm.weight";

/// A model directory whose single weight file went through `damage`.
fn damaged(damage: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(directory(CASE).join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = std::fs::read(directory(CASE).join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), damage(bytes)).unwrap();
    dir
}

fn refusal(dir: &Path) -> String {
    Decoder::load(dir, engine()).expect_err("the damage went unnoticed").to_string()
}

/// The file with its header changed.
fn header(change: impl FnOnce(&mut Value)) -> impl FnOnce(Vec<u8>) -> Vec<u8> {
    |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut value: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut value);
        let text = serde_json::to_vec(&value).unwrap();
        [&(text.len() as u64).to_le_bytes(), text.as_slice(), &bytes[8 + length..]].concat()
    }
}

#[track_caller]
fn assert_refused(damage: impl FnOnce(Vec<u8>) -> Vec<u8>, named: &[&str]) {
    let error = refusal(damaged(damage).path());
    assert!(error.contains("model.safetensors"), "{error}");
    for name in named {
        assert!(error.contains(name), "expected {name:?} in: {error}");
    }
}

#[test]
fn truncated_and_oversized_files_are_refused() {
    for keep in [0, 1, 7, 8, 9, 100, 2000, 50_000] {
        assert_refused(|b| b[..keep.min(b.len() - 1)].to_vec(), &["truncated"]);
    }
    assert_refused(|b| [b, vec![0; 3]].concat(), &["oversized"]);
}

#[test]
fn absurd_header_lengths_are_refused_without_taking_memory() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 100_000_001, 99_999_999] {
        assert_refused(|b| [&length.to_le_bytes(), &b[8..]].concat(), &["header"]);
    }
    assert_refused(|b| [&5u64.to_le_bytes(), &b[8..]].concat(), &["JSON"]);
    assert_refused(|b| [&b[..8], &[0xff; 200], &b[208..]].concat(), &["JSON"]);
}

#[test]
fn offsets_and_shapes_that_lie_are_refused() {
    let huge = u64::MAX;
    for (key, value) in [
        ("data_offsets", json!([0, huge])),
        ("data_offsets", json!([huge - 95, huge])),
        ("data_offsets", json!([96, 0])),
        ("data_offsets", json!([0])),
        ("data_offsets", json!("x")),
        ("data_offsets", json!([-1, 95])),
        ("data_offsets", json!([0.5, 96.5])),
        ("shape", json!([huge, huge])),
        ("shape", json!([huge, 0])),
        ("shape", json!(24)),
        ("shape", json!([25])),
        ("dtype", json!("F99")),
        ("dtype", json!(32)),
        ("dtype", json!("I8")),
    ] {
        assert_refused(header(|h| h[NORM][key] = value), &[NORM]);
    }
    assert_refused(header(|h| h[NORM] = json!(null)), &[NORM]);
    // Eight enormous tensors whose sizes each check out, but whose sum does not fit.
    let many = header(|h| {
        *h = json!({});
        for i in 0..9u64 {
            h[format!("t{i}")] = json!({"dtype": "U8", "shape": [1u64 << 61], "data_offsets": [i.saturating_mul(1 << 61), (i + 1).saturating_mul(1 << 61)]});
        }
    });
    assert_refused(many, &["t"]);
    // Two tensors over the same bytes.
    assert_refused(
        header(|h| {
            let twin = h[NORM].clone();
            h["twin"] = twin;
        }),
        &["overlap"],
    );
}

#[test]
fn another_number_type_is_refused_with_what_to_do() {
    assert_refused(
        header(|h| h[NORM]["dtype"] = json!("I32")),
        &[NORM, "I32", "f32, bf16 or f16", "not quantised"],
    );
}

#[test]
fn missing_superfluous_and_misshapen_tensors_are_named() {
    let rename = |to: &'static str| {
        header(move |h| {
            let tensor = h.as_object_mut().unwrap().remove(NORM).unwrap();
            h[to] = tensor;
        })
    };
    assert_refused(rename("model.other.weight"), &[NORM, "no such tensor", "fetch both again"]);
    assert_refused(header(|h| h[NORM]["shape"] = json!([1, 24])), &[NORM, "[24]", "[1, 24]"]);
    let extra = |name: &'static str| {
        move |bytes: Vec<u8>| {
            let end = bytes.len() - 8 - u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let add =
                header(|h| h[name] = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}));
            [add(bytes), vec![0; 4]].concat()
        }
    };
    assert_refused(extra("model.layers.2.mlp.up_proj.weight"), &["model.layers.2.mlp.up_proj.weight"]);
    let harmless = damaged(extra("model.layers.0.self_attn.rotary_emb.inv_freq"));
    assert!(Decoder::load(harmless.path(), engine()).is_ok());
}

#[test]
fn a_stored_head_that_contradicts_the_tie_is_refused() {
    let with_head = |change: bool| {
        move |bytes: Vec<u8>| {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let value: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            let offsets = &value["model.embed_tokens.weight"]["data_offsets"];
            let at = |i: usize| 8 + length + offsets[i].as_u64().unwrap() as usize;
            let mut head = bytes[at(0)..at(1)].to_vec();
            head[0] ^= u8::from(change);
            let (end, size) = (bytes.len() - 8 - length, head.len());
            let entry = json!({"dtype": "F32", "shape": [64, 24], "data_offsets": [end, end + size]});
            [header(|h| h["lm_head.weight"] = entry)(bytes), head].concat()
        }
    };
    assert!(Decoder::load(damaged(with_head(false)).path(), engine()).is_ok());
    assert_refused(with_head(true), &["lm_head.weight", "tie_word_embeddings"]);
}

/// A model directory of this case, its tensors under other names, and masks of an older transformers beside them.
fn renamed(case: &str, name: impl Fn(&str) -> String, masks: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(directory(case).join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = std::fs::read(directory(case).join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mask = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![1, 1], &[1]).unwrap();
    let all = tensors.iter().map(|(old, view)| (name(old), view));
    let all = all.chain(masks.iter().map(|name| ((*name).to_owned(), mask.clone())));
    let file = dir.path().join("model.safetensors");
    safetensors::serialize_to_file(all, None, &file).unwrap();
    dir
}

#[test]
fn names_and_masks_that_the_hub_holds_are_understood() {
    let same = |case: &str, dir: &Path| {
        let (there, here) = (Decoder::load(&directory(case), engine()), Decoder::load(dir, engine()));
        assert!(there.unwrap().parameters().eq(here.unwrap().parameters()), "{case}");
    };
    // OpenAI's GPT-2 was published without a head, so without the name of the body.
    let bare = |name: &str| name.strip_prefix("transformer.").unwrap_or(name).to_owned();
    let masks = ["h.0.attn.bias", "h.1.attn.masked_bias"];
    same("gpt2_learned_positions", renamed("gpt2_learned_positions", bare, &masks).path());
    let head = |name: &str| name.replace("embed_out", "lm_head");
    let masks = ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"];
    same("gpt_neox_parallel", renamed("gpt_neox_parallel", head, &masks).path());
    let strange = renamed("gpt2_learned_positions", bare, &["h.0.attn.c_attn.scale"]);
    assert!(refusal(strange.path()).contains("h.0.attn.c_attn.scale"));
}

#[test]
fn a_fused_tensor_of_another_shape_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let case = directory("phi3_partial_rotary");
    std::fs::copy(case.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let text = std::fs::read_to_string(case.join("config.json")).unwrap();
    let text = text.replace("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    let error = refusal(dir.path());
    assert!(error.contains("self_attn.qkv_proj.weight") && error.contains("[96, 24]"), "{error}");
}

#[test]
fn a_directory_without_weights_says_what_it_needs() {
    let dir = damaged(|b| b);
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors.index.json"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    assert!(refusal(dir.path()).contains("convert"));
    assert!(Decoder::load(&dir.path().join("gone"), engine()).is_err());
}

#[test]
fn a_damaged_index_is_refused() {
    let source = directory("llama_untied_biases_sharded");
    let with_index = |change: &dyn Fn(&mut Value)| {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let path = dir.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut index);
        std::fs::write(&path, index.to_string()).unwrap();
        dir
    };
    assert!(Decoder::load(with_index(&|_| ()).path(), engine()).is_ok());
    for (shard, named) in [
        (json!("../model.safetensors"), "plain file name"),
        (json!("/etc/passwd"), "plain file name"),
        (json!(".."), "plain file name"),
        (json!(3), "not a string"),
        (json!("gone.safetensors"), "gone.safetensors"),
        (json!("model-00001-of-00003.safetensors"), "does not hold it"),
    ] {
        let error = refusal(with_index(&|index| index["weight_map"][NORM] = shard.clone()).path());
        assert!(error.contains(named), "{error}");
    }
    assert!(refusal(with_index(&|index| *index = json!({})).path()).contains("weight_map"));
    let shard_gone = with_index(&|_| ());
    std::fs::remove_file(shard_gone.path().join("model-00002-of-00003.safetensors")).unwrap();
    assert!(refusal(shard_gone.path()).contains("model-00002-of-00003.safetensors"));
    let shard_empty = with_index(&|_| ());
    std::fs::write(shard_empty.path().join("model-00002-of-00003.safetensors"), "").unwrap();
    let error = refusal(shard_empty.path());
    assert!(error.contains("model-00002-of-00003.safetensors"), "{error}");
}
