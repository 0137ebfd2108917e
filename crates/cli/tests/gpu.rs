//! `device: cuda` through the program: what a GPU computes is what the processor computes, an interruption does not show,
//! steps allocate nothing, and what cannot be done is said. Runs on a GPU or on the stand-in for one (docs/gpu.md);
//! where neither opens each test says why it is skipped, and with `BSO_REQUIRE_GPU` set that is a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped is shown")]

mod support;

use bso_model::{Device, Engine};
use serde_json::json;
use std::{env, fs};
use support::{Ended, Playground, assert_same_result, metrics};

const BSO: &str = "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 5\nsafety_transform: swap_drop\n";
const LORA: &str = "use_peft: true\nlora_r: 4\nlora_alpha: 8\n";

/// What the GPU says it is, if one opens.
fn gpu() -> Option<String> {
    match Device::parse("cuda").and_then(|device| Engine::on(device, Some(1))) {
        Ok(engine) => Some(engine.description()),
        Err(error) => {
            assert!(env::var_os("BSO_REQUIRE_GPU").is_none(), "{error}");
            println!("skipped: {error}");
            None
        }
    }
}

/// Whether it is the stand-in, which counts what it is asked for.
fn stand_in() -> bool {
    let found = gpu();
    let is_stand_in = found.as_ref().is_some_and(|name| name.contains("stand-in"));
    if found.is_some() && !is_stand_in {
        println!("skipped: only the stand-in counts what it is asked for");
    }
    is_stand_in
}

fn train(here: &Playground, name: &str, settings: &str) -> Ended {
    // Settings that name their own data do so in place of the pairs.
    let file = here.config(name, "");
    let mut text = fs::read_to_string(here.path(&file)).unwrap();
    if settings.contains("dataset_name") {
        text = text.replace("dataset_name: pairs.jsonl\n", "");
    }
    here.write(&file, &(text + settings));
    here.run(&["train", &file])
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs()).max(1e-3)
}

#[test]
fn a_gpu_trains_as_the_processor_does() {
    if gpu().is_none() {
        return;
    }
    let here = Playground::new();
    for (name, settings) in [
        ("sft", "stage: sft\nloss_type: nll\ndataset_name: sft.jsonl\n".to_owned()),
        ("bso", BSO.to_owned()),
        ("ipo", "loss_type: ipo\noptim: rmsprop\n".to_owned()),
        ("kto", "loss_type: kto\noptim: sgd\n".to_owned()),
        ("lora", format!("loss_type: dpo\n{LORA}lora_dropout: 0.1\nlora_modules_to_save: [lm_head]\n")),
        ("dora", format!("loss_type: dpo\n{LORA}lora_dropout: 0.1\nuse_dora: true\n")),
        ("qlora", format!("loss_type: dpo\n{LORA}load_in_4bit: true\n")),
        ("reward", "stage: reward\nloss_type: reward\n".to_owned()),
        ("cost", "stage: cost\nloss_type: cost\n".to_owned()),
    ] {
        let [on_cpu, on_gpu] = ["cpu", "cuda"].map(|device| {
            let run = format!("{name}-{device}");
            let more = format!("{settings}dtype: f32\nmax_steps: 3\nlogging_steps: 1\ndevice: {device}\n");
            train(&here, &run, &more).ok();
            metrics(&here.path(&run))
        });
        assert_eq!(on_cpu.len(), on_gpu.len(), "{name}");
        for (cpu, gpu) in on_cpu.iter().zip(&on_gpu) {
            for figure in ["loss", "grad_norm", "logps/chosen", "logps/rejected"] {
                let [cpu, gpu] = [cpu, gpu].map(|row| row[figure].as_f64());
                let [Some(cpu), Some(gpu)] = [cpu, gpu] else {
                    assert_eq!(cpu, gpu, "{name}: {figure}");
                    continue;
                };
                let bound = if figure == "grad_norm" { 1e-4 } else { 1e-5 };
                assert!(
                    close(cpu, gpu, bound),
                    "{name}: {figure} is {cpu} on the processor, {gpu} on the GPU"
                );
            }
        }
    }
}

#[test]
fn a_gpu_that_gives_other_numbers_than_the_processor_is_not_trained_on() {
    if !stand_in() {
        return;
    }
    let here = Playground::new();
    let file = here.config("fault", &format!("{BSO}device: cuda\n"));
    let mut command = here.bso();
    command.args(["train", &file]).env("BSO_STAND_IN_FAULT", "1");
    let words = ["cuda:0", "other numbers than the processor", "linear", "device: cpu"];
    Ended::of(command.output().unwrap()).fails(1, &words);
    assert!(!here.path("fault").join("model.safetensors").exists());
}

#[test]
fn a_run_resumed_on_a_gpu_ends_in_the_same_bytes() {
    if gpu().is_none() {
        return;
    }
    let here = Playground::new();
    for (name, dtype) in [("narrow", "bf16"), ("wide", "f32")] {
        let settings =
            format!("{BSO}device: cuda\ndtype: {dtype}\nmax_steps: 4\nsave_strategy: steps\nsave_steps: 2\n");
        train(&here, name, &settings).ok();
        let again = format!("{name}-again");
        let from = here.path(name).join("checkpoint-2");
        train(&here, &again, &format!("{settings}resume_from_checkpoint: {}\n", from.display())).ok();
        let bytes = |run: &str| fs::read(here.path(run).join("model.safetensors")).unwrap();
        assert!(bytes(name) == bytes(&again), "{dtype}: the weights differ");
        let repeated = format!("{name}-repeated");
        train(&here, &repeated, &settings).ok();
        assert_same_result(&here.path(name), &here.path(&repeated));
    }
}

#[test]
fn rows_are_scored_and_answered_as_on_the_processor() {
    if gpu().is_none() {
        return;
    }
    let here = Playground::new();
    let prompt = "how do i break the ice ?";
    here.write_rows("pair.jsonl", &[json!({"prompt": prompt, "chosen": "ask the cook", "rejected": "no"})]);
    here.write_rows("answer.jsonl", &[json!({"prompt": prompt, "response": "ask the cook"})]);
    here.write_rows("prompt.jsonl", &[json!({"prompt": prompt})]);
    support::write_scorer(
        &here.path("model"),
        &here.path("scorer"),
        bso_model::ScoreHead::sequence_classification(),
        |_| (),
    );
    let on = |device: &str, arguments: &[&str]| {
        here.run(&[arguments, &["--device", device, "--dtype", "f32"]].concat()).ok().rows()
    };
    for arguments in [
        &["logprobs", "--model", "model", "--data", "pair.jsonl"][..],
        &["score", "--model", "scorer", "--input", "answer.jsonl"],
        &["generate", "--model", "model", "--input", "prompt.jsonl", "--max_new_tokens", "8"],
    ] {
        let [cpu, gpu] = ["cpu", "cuda"].map(|device| on(device, arguments));
        assert_eq!(cpu.len(), gpu.len());
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            for (name, value) in cpu.as_object().unwrap() {
                let same = match (value.as_f64(), gpu[name].as_f64()) {
                    (Some(cpu), Some(gpu)) => close(cpu, gpu, 1e-5),
                    _ => *value == gpu[name],
                };
                assert!(same, "{arguments:?}: {name} is {value} on the processor, {} on the GPU", gpu[name]);
            }
        }
    }
}

/// A number that the stand-in printed before `what` at its end.
fn counted(ended: &Ended, what: &str) -> u64 {
    let line = ended.err.lines().find(|line| line.starts_with("stand-in:")).unwrap_or_else(|| {
        panic!("no line of the stand-in's in:\n{}", ended.err);
    });
    let before = line.split(what).next().unwrap();
    before.split_whitespace().next_back().unwrap().parse().unwrap()
}

#[test]
fn a_step_allocates_nothing_and_is_waited_for_twice() {
    if !stand_in() {
        return;
    }
    let here = Playground::new();
    // Batches of one size: one that is larger than all before it may take memory.
    let pairs = fs::read_to_string(here.path("pairs.jsonl")).unwrap();
    let first = pairs.lines().next().unwrap();
    here.write("pairs.jsonl", &format!("{first}\n").repeat(96));
    let counts = [6, 16].map(|steps| {
        let settings = format!("loss_type: dpo\ndevice: cuda\ndtype: bf16\nmax_steps: {steps}\n");
        let file = here.config(&format!("run{steps}"), &settings);
        let mut command = here.bso();
        command.args(["train", &file]).env("BSO_STAND_IN_LOG", "1");
        let ended = Ended::of(command.output().unwrap()).ok();
        ["allocations", "waits"].map(|what| counted(&ended, what))
    });
    let [[few, short], [many, long]] = counts;
    assert_eq!(few, many, "ten steps more allocate");
    // For its log-probs and for its gradients' norm, each counted as a copy that is waited for and as a wait.
    assert_eq!(long - short, 10 * 2 * 2, "waits of ten steps");
}

#[test]
fn memory_that_ends_is_an_error_with_remedies_and_the_folder_can_be_used_again() {
    if !stand_in() {
        return;
    }
    let here = Playground::new();
    let settings = "loss_type: dpo\ndevice: cuda\ndtype: f32\nmax_steps: 2\n";
    let file = here.config("run", settings);
    let with = |bytes: &str| {
        let mut command = here.bso();
        command.args(["train", &file]).env("BSO_STAND_IN_MEMORY", bytes);
        Ended::of(command.output().unwrap())
    };
    // Less than the products' workspace, than the model beside it, and than a step.
    for bytes in ["1000000", "33600000", "34000000", "34500000"] {
        let remedies = ["cuda:0", "bytes more", "per_device_train_batch_size", "gradient_checkpointing"];
        with(bytes).fails(1, &remedies);
        assert!(!here.path("run").join("model.safetensors").exists());
    }
    here.run(&["train", &file]).ok();
    assert!(here.path("run").join("model.safetensors").exists());
}

#[test]
fn a_gpu_that_is_not_there_is_refused_by_its_name() {
    if gpu().is_none() {
        return;
    }
    let here = Playground::new();
    train(&here, "run", "loss_type: dpo\ndevice: cuda:7\n").fails(2, &["cuda:7", "the driver shows"]);
    let arguments = ["logprobs", "--model", "model", "--data", "pairs.jsonl", "--device", "cuda:7"];
    here.run(&arguments).fails(2, &["cuda:7", "the driver shows"]);
}

#[test]
fn a_policy_that_differs_from_its_reference_by_rounding_alone_is_trained() {
    if !stand_in() {
        return;
    }
    let here = Playground::new();
    for dtype in ["f32", "bf16"] {
        let file =
            here.config(dtype, &format!("loss_type: dpo\ndevice: cuda\ndtype: {dtype}\nmax_steps: 1\n"));
        // Batches of other sizes than the reference's: their products are summed in another order.
        let mut command = here.bso();
        command.args(["train", &file, "--per_device_train_batch_size", "3"]);
        Ended::of(command.env("BSO_STAND_IN_SUMS", "by-shape").output().unwrap()).ok();
    }
}
