//! What a user relies on: who wins, what is refused and how, and that everything generated is up to date.

use super::*;
use bso_data::{Preference, SafetyTransform, Schema, TruncationMode};
use bso_model::{Quantisation, Targets};
use bso_objective::{BsoSettings, Generator, Tail};
use std::fs;

const NEEDED: &str = "model_name_or_path: ./models/m\ndataset_name: data/train.jsonl\n";

/// What PPO-Lagrangian needs beside that.
const SCORERS: &str = "reward_model: models/reward\ncost_model: models/cost\n";

/// A config with what its stage needs.
fn whole(yaml: &str) -> String {
    let scorers = if yaml.contains("ppo-lag") || yaml.contains("ppo_lag") { SCORERS } else { "" };
    format!("{NEEDED}{scorers}{yaml}")
}

fn variables(name: &str) -> Option<String> {
    (name == "DATA").then(|| "/data".to_owned())
}

fn resolve(yaml: &str, command_line: &str) -> Result<Resolved, ConfigError> {
    let words: Vec<String> = command_line.split_whitespace().map(str::to_owned).collect();
    let around = Surroundings { working_dir: Path::new("/here"), variable: &variables };
    let file = (written::from_yaml(yaml, Path::new("a.yaml"))?, "/configs".into());
    resolve_written(vec![file], &parse_overrides(&words)?, &around)
}

fn config(yaml: &str, command_line: &str) -> TrainConfig {
    resolve(&whole(yaml), command_line).map_or_else(|e| panic!("{yaml}: {e}"), |r| r.config)
}

fn notices(yaml: &str, command_line: &str) -> String {
    resolve(&whole(yaml), command_line).unwrap().notices.join("\n")
}

fn error(yaml: &str, command_line: &str) -> String {
    match resolve(&whole(yaml), command_line) {
        Ok(resolved) => panic!("{yaml} {command_line} resolved to {:?}", resolved.config),
        Err(error) => error.to_string(),
    }
}

fn bso(config: &TrainConfig) -> &BsoSettings {
    match &config.objective {
        ObjectiveSection::Bso(settings) => settings,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn defaults_are_those_of_trl_and_the_method() {
    let c = config("loss_type: bso", "");
    let recommended = BsoSettings {
        generator: Generator::Logistic,
        safety_penalty: 2.0,
        clamp: None,
        ..Default::default()
    };
    assert_eq!(bso(&c), &recommended);
    assert_eq!(bso(&config("preset: bso", "")), &recommended);
    // The paper's generator brings its clamp with it.
    let published = config("loss_type: bso\ngenerator: sba\nsafety_penalty: 10", "");
    assert_eq!(bso(&published), &BsoSettings::default());
    assert_eq!(c.stage, Stage::Preference);
    assert_eq!(c.data.safety_transform, SafetyTransform::SwapDrop);
    assert_eq!(c.data.preference, Preference::Better);
    assert_eq!((c.data.max_length, c.data.truncation_mode), (Some(1024), TruncationMode::KeepStart));
    assert_eq!((c.data.dataset_format, c.data.eval_split), (None, 0.05));
    assert_eq!((c.schedule.learning_rate, c.schedule.num_train_epochs), (1e-6, 3.0));
    assert_eq!((c.schedule.per_device_train_batch_size, c.schedule.gradient_accumulation_steps), (8, 1));
    assert_eq!((c.schedule.warmup, c.schedule.max_steps), (Warmup::Steps(0), None));
    assert_eq!(
        (c.optimiser.adam_beta1, c.optimiser.adam_beta2, c.optimiser.adam_epsilon),
        (0.9, 0.999, 1e-8)
    );
    assert_eq!((c.optimiser.max_grad_norm, c.optimiser.weight_decay), (Some(1.0), 0.0));
    assert_eq!(
        (c.run.eval_strategy, c.run.save_strategy, c.run.save_steps),
        (Strategy::No, SaveStrategy::Steps, 500)
    );
    assert_eq!((c.run.logging_steps, c.run.eval_steps, c.model.seed), (10, 10, 42));

    let sft = config("stage: sft", "");
    assert_eq!((sft.objective, sft.schedule.learning_rate), (ObjectiveSection::Nll, 2e-5));
    assert_eq!(sft.data.safety_transform, SafetyTransform::None);
    assert_eq!(config("loss_type: dpo", "").data.safety_transform, SafetyTransform::None);
    assert_eq!(config("loss_type: safedpo", "").data.safety_transform, SafetyTransform::SwapDrop);
}

#[test]
fn the_command_line_wins_over_the_file_over_the_preset_over_the_defaults() {
    let c = config("preset: paper\nbeta: 0.2\nseed: 1", "--seed 2 --safety-penalty 7");
    assert_eq!((bso(&c).beta, bso(&c).safety_penalty, c.model.seed), (0.2, 7.0, 2));
    assert_eq!(c.data.safety_transform, SafetyTransform::SwapDrop);
    assert_eq!(bso(&config("preset: paper", "")), &BsoSettings::paper());
    assert!(matches!(config("preset: paper", "--preset dpo").objective, ObjectiveSection::Dpo { beta: 0.1 }));
}

#[test]
fn paths_start_at_the_file_or_at_the_working_directory() {
    let c = config("loss_type: dpo\nref_model: ../ref", "--dataset_name d.jsonl");
    assert_eq!(c.model.model_name_or_path, Path::new("/configs/models/m"));
    assert_eq!(c.model.ref_model.as_deref(), Some(Path::new("/configs/../ref")));
    assert_eq!(c.data.datasets[0].path, Path::new("/here/d.jsonl"));
    assert_eq!(c.run.output_dir, Path::new("/here/trainer_output"));
}

#[test]
fn generators_are_merged_by_layer() {
    let generator =
        |yaml: &str, line: &str| bso(&config(&format!("loss_type: bso\n{yaml}"), line)).generator.clone();
    let sba = |lambda, scale| Generator::Sba { lambda, scale };
    assert_eq!(generator("", ""), Generator::Logistic);
    assert_eq!(generator("generator: sba", ""), sba(0.2, 4.0));
    assert_eq!(generator("generator: {name: sba, lambda: 0.3}", ""), sba(0.3, 4.0));
    assert_eq!(generator("generator: {name: sba, params: [0.3, 2]}", ""), sba(0.3, 2.0));
    assert_eq!(
        generator("generator: sba\ngenerator_params: [0.3, 4]", "--generator_lambda 0.5"),
        sba(0.5, 4.0)
    );
    assert_eq!(generator("generator: sba\ngenerator_params: [0.3, 4]", "--generator sba"), sba(0.3, 4.0));
    assert_eq!(generator("generator: phi_mu", ""), Generator::PhiMu { mu: 1.5 });
    assert_eq!(generator("generator: phi\ngenerator_mu: 1.2", ""), Generator::PhiMu { mu: 1.2 });
    assert_eq!(
        generator("generator: sba\ngenerator_params: [0.3, 4]", "--generator logistic"),
        Generator::Logistic
    );
    assert_eq!(generator("preset: paper-llama3b\ngenerator: kliep", ""), Generator::Kliep);
    for kernel in [
        "generator: kernel\nkernel: \"2*cosh(0.7*u)\"",
        "generator: {kernel: \"2*cosh(0.7*u)\"}",
        "generator: {name: kernel, params: [\"2*cosh(0.7*u)\"]}",
        "generator: kernel\ngenerator_params: [\"2*cosh(0.7*u)\"]",
    ] {
        assert_eq!(generator(kernel, "").name(), "kernel", "{kernel}");
    }
    says(
        &notices("loss_type: bso\ngenerator: sba\ngenerator_params: [0.3, 4]", "--generator logistic"),
        &["default parameters, not the file's"],
    );
}

#[test]
fn impossible_generators_are_refused_with_their_place() {
    let of = |yaml: &str| error(&format!("loss_type: bso\n{yaml}"), "");
    says(&of("generator: sbaa"), &["line 4", "sbaa", "Did you mean `sba`?"]);
    says(&of("generator: {name: sba, lamda: 0.2}"), &["line 4", "generator.lamda", "Did you mean `lambda`?"]);
    says(&of("generator: sba\ngenerator_params: [0.2]"), &["line 5", "sba", "[lambda, scale]"]);
    says(&of("generator: ba\ngenerator_params: [-1]"), &["line 5"]);
    says(&of("generator: logistic\ngenerator_lambda: 0.2"), &["logistic has no `generator_lambda`"]);
    says(&of("generator_params: [0.2, 4]\ngenerator_scale: 4"), &["keep one"]);
    says(&of("generator: kernel"), &["`kernel` is missing"]);
    says(&of("generator: kernel\nkernel: \"sinh(u)\""), &["line 5"]);
    says(&of("kernel: \"cosh(u)\""), &["write `generator: kernel`"]);
}

#[test]
fn clamps_are_intervals_or_none() {
    let clamp = |yaml: &str, line: &str| bso(&config(&format!("loss_type: bso\n{yaml}"), line)).clamp;
    assert_eq!(clamp("log_ratio_clamp: [-20, 25.5]", ""), Some((-20.0, 25.5)));
    assert_eq!(clamp("log_ratio_clamp: none", ""), None);
    assert_eq!(clamp("", "--log_ratio_clamp -10,12"), Some((-10.0, 12.0)));
    assert_eq!(clamp("", "--log-ratio-clamp=none"), None);
    says(&error("loss_type: bso\nlog_ratio_clamp: [30, -30]", ""), &["line 4", "low < high"]);
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion_and_a_line() {
    says(
        &error("loss_type: dpo\nlearning_rat: 1e-5", ""),
        &["a.yaml, line 4", "learning_rat`", "`learning_rate`?"],
    );
    says(&error("loss_type: dpo", "--sefety-penalty 3"), &["command line", "`safety_penalty`?"]);
    says(&error("loss_type: dpo\nzzz: 1", ""), &["unknown key `zzz`. docs"]);
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for (yaml, part) in [
        ("dtype: float16", "dtype: float16"),
        ("stage: ppo", "stage: ppo"),
        ("report_to: wandb", "report_to: wandb"),
        ("report_to: [comet_ml]", "report_to: comet_ml"),
        ("precompute_ref_log_probs: false", "precompute_ref_log_probs"),
    ] {
        says(&error(&format!("loss_type: dpo\n{yaml}"), ""), &["a.yaml, line 4", part, "not supported yet"]);
    }
    says(&error("loss_type: orpo", ""), &["loss_type: orpo", "not supported yet"]);
    // More GPUs than any machine has: refused with the reason, whether code for GPUs is here or not.
    for device in ["cuda:4000000000", "gpu"] {
        says(&error(&format!("loss_type: dpo\ndevice: {device}"), ""), &["a.yaml, line 4", device]);
    }
    // Saying what happens anyway is no error: configs of other programs say it.
    config(
        "loss_type: dpo\nuse_peft: false\nlora_r: 16\nbf16: false\nreport_to: []\nprecompute_ref_log_probs: true",
        "",
    );
}

#[test]
fn adapters_are_read_as_peft_and_trl_write_them() {
    assert_eq!(config("loss_type: dpo\nlora_r: 16", "").adapter, None);
    let default = config("loss_type: dpo\nuse_peft: true", "").adapter.unwrap();
    assert_eq!((default.r, default.alpha, default.dropout, default.rslora), (16, 32.0, 0.05, false));
    assert_eq!((default.targets, default.modules_to_save), (Targets::AllLinear, Vec::new()));
    for (written, targets) in [
        ("all-linear", Targets::AllLinear),
        ("[q_proj, v_proj]", Targets::Names(vec!["q_proj".into(), "v_proj".into()])),
        ("q_proj", Targets::Names(vec!["q_proj".into()])),
        (r"'.*\.(q|v)_proj'", Targets::Pattern(r".*\.(q|v)_proj".into())),
        ("['.*{1,2}[qv]_proj']", Targets::Pattern(".*{1,2}[qv]_proj".into())),
    ] {
        let yaml = format!("loss_type: dpo\nuse_peft: true\nlora_rank: 4\nlora_target_modules: {written}");
        let config = config(&yaml, "");
        let adapter = config.adapter.clone().unwrap();
        assert_eq!((adapter.r, &adapter.targets), (4, &targets), "{written}");
        let again = resolve(&config.to_yaml(), "").unwrap().config;
        assert_eq!(again.adapter, Some(adapter), "{}", config.to_yaml());
    }
    says(
        &error("loss_type: dpo\nuse_peft: true\nlora_target_modules: ['(q_proj']", ""),
        &["lora_target_modules", "(q_proj"],
    );
    says(&notices("loss_type: dpo\nlora_r: 64", ""), &["lora_r", "use_peft"]);
}

#[test]
fn bases_in_few_bits_are_read_as_trl_and_transformers_name_them() {
    let adapted = "loss_type: dpo\nuse_peft: true\n";
    for (written, quantisation) in [
        ("load_in_4bit: false", None),
        ("load_in_8bit: true", Some(Quantisation::Int8)),
        ("load_in_4bit: true", Some(Quantisation::Nf4 { nested: false })),
        (
            "load_in_4bit: true\nbnb_4bit_quant_type: nf4\nbnb_4bit_use_double_quant: true",
            Some(Quantisation::Nf4 { nested: true }),
        ),
    ] {
        let config = config(&format!("{adapted}{written}"), "");
        assert_eq!(config.quantisation, quantisation, "{written}");
        assert_eq!(resolve(&config.to_yaml(), "").unwrap().config.quantisation, quantisation, "{written}");
    }
    let words = config(&format!("{adapted}load_in_4bit: true"), "").reference_in_words();
    assert!(words.contains("4 bits (nf4)"), "{words}");
    says(&error("loss_type: dpo\nload_in_4bit: true", ""), &["load_in_4bit", "use_peft: true"]);
    says(
        &error(&format!("{adapted}load_in_4bit: true\nload_in_8bit: true"), ""),
        &["load_in_8bit", "keep one"],
    );
    says(&error(&format!("{adapted}load_in_4bit: true\nbnb_4bit_quant_type: fp4"), ""), &["fp4", "nf4"]);
}

#[test]
fn aliases_and_ineffective_keys_are_told() {
    let c = "loss_type: sigmoid\npref_beta: 0.2\nlr: 1e-5\nepochs: 1\ncutoff_len: 128\nmicro_batch_size: 2\noptim: adamw_torch";
    let told = notices(c, "--num_epochs 2");
    says(
        &told,
        &["`pref_beta` is read as `beta`", "a.yaml, line 4", "`loss_type: sigmoid` is read as `dpo`"],
    );
    says(&told, &["`optim: adamw_torch` is read as `adamw`", "command line: `num_epochs`"]);
    let resolved = config(c, "--num_epochs 2");
    assert_eq!(resolved.objective, ObjectiveSection::Dpo { beta: 0.2 });
    assert_eq!((resolved.schedule.num_train_epochs, resolved.data.max_length), (2.0, Some(128)));
    says(
        &notices("loss_type: dpo\nmax_prompt_length: 512\npacking: false", ""),
        &["`max_prompt_length` has no effect", "`packing` has no"],
    );
    says(&notices("loss_type: dpo\ndelta: 3", ""), &["line 4: `delta` is not read by loss_type dpo"]);
    assert_eq!(notices("preset: paper", "--loss_type dpo"), "", "a preset's own keys are not the user's");
    says(&error("loss_type: dpo\nbeta: 0.1\npref_beta: 0.2", ""), &["`beta` is given twice"]);
}

#[test]
fn contradictions_are_refused() {
    says(&error("stage: sft\nloss_type: dpo", ""), &["line 4", "stage sft has the loss nll"]);
    says(&error("stage: preference", ""), &["`loss_type` is missing"]);
    says(&error("loss_type: nll", ""), &["stage sft"]);
    says(&error("loss_type: dpo\nlabel_smoothing: 0.1", ""), &["cdpo"]);
    says(&error("loss_type: safedpo\ndelta: 1\nsafety_penalty: 2", ""), &["keep one"]);
    says(&error("loss_type: dpo\nwarmup_ratio: 0.1\nwarmup_steps: 5", ""), &["keep one"]);
    says(&error("loss_type: kto\nper_device_train_batch_size: 1", ""), &["at least 2"]);
    says(
        &error("loss_type: dpo\nbf16: true\ndtype: f32", ""),
        &["`bf16` and `dtype: f32` contradict", "keep one"],
    );
    says(&error("loss_type: dpo\neval_strategy: steps\neval_split: 0", ""), &["nothing is held out"]);
}

#[test]
fn a_stronger_layer_changes_the_spelling_without_a_conflict() {
    let delta = |yaml: &str, line: &str| match config(&format!("loss_type: safedpo\n{yaml}"), line).objective
    {
        ObjectiveSection::SafeDpo { delta, .. } => delta,
        other => panic!("{other:?}"),
    };
    assert_eq!(delta("", ""), 10.0);
    assert_eq!(delta("safety_penalty: 3", ""), 3.0);
    assert_eq!(delta("preset: safedpo\nsafety_penalty: 3", ""), 3.0);
    assert_eq!(delta("safety_penalty: 3", "--delta 4"), 4.0);
    let dtype = |yaml: &str, line: &str| config(&format!("loss_type: dpo\n{yaml}"), line).model.dtype;
    assert_eq!(dtype("bf16: false", ""), DTypeChoice::F32);
    assert_eq!(dtype("bf16: true\ndtype: bf16", ""), DTypeChoice::Bf16);
    assert_eq!(dtype("bf16: true", "--dtype f32"), DTypeChoice::F32);
    assert_eq!(dtype("dtype: f32", "--bf16 true"), DTypeChoice::Bf16);
    let warmup = |yaml: &str, line: &str| config(&format!("loss_type: dpo\n{yaml}"), line).schedule.warmup;
    assert_eq!(warmup("warmup_ratio: 0.1", "--warmup_steps 7"), Warmup::Steps(7));
    assert_eq!(warmup("warmup_steps: 7", "--warmup_ratio 0.1"), Warmup::Ratio(0.1));
    assert_eq!(warmup("warmup_steps: 0\nwarmup_ratio: 0.1", ""), Warmup::Ratio(0.1));
    assert_eq!(warmup("preset: paper-qwen0.5b\nwarmup_ratio: 0", ""), Warmup::Steps(0));
}

#[test]
fn variables_are_expanded_where_they_are_needed() {
    let with = |yaml: &str, line: &str| resolve(&format!("loss_type: dpo\n{yaml}"), line);
    let c = with("model_name_or_path: ${DATA}/m\ndataset_name: ${NONE:-/d}.jsonl\nseed: ${SEED:-7}", "")
        .unwrap()
        .config;
    assert_eq!(c.model.model_name_or_path, Path::new("/data/m"));
    assert_eq!((c.data.datasets[0].path.to_str(), c.model.seed), (Some("/d.jsonl"), 7));
    let missing = "model_name_or_path: /m\ndataset_name: ${XS:?the folder of the pairs}/x";
    says(
        &with(missing, "").unwrap_err().to_string(),
        &["a.yaml, line 3", "`dataset_name`", "XS", "set XS to the folder of the pairs", "--dataset_name"],
    );
    assert!(with(missing, "--dataset_name /d").is_ok(), "an argument stands in for the variable");
}

#[test]
fn broken_files_are_refused_with_the_place() {
    for (yaml, parts) in [
        ("a: [1, 2\nb: 3", vec!["a.yaml", "line 2"]),
        ("beta: 0.1\nbeta: 0.2", vec!["line 2", "duplicate"]),
        ("- a\n- b", vec!["a.yaml"]),
        ("just text", vec!["a.yaml"]),
        ("loss_type: dpo\n---\nbeta: 2", vec!["a.yaml"]),
        ("beta: .nan", vec!["line 1"]),
    ] {
        says(&resolve(yaml, "").unwrap_err().to_string(), &parts);
    }
    says(&resolve("", "").unwrap_err().to_string(), &["`loss_type` is missing", "--loss_type"]);
    says(&resolve("loss_type: dpo", "").unwrap_err().to_string(), &["`model_name_or_path` is missing"]);
    says(&error("loss_type: dpo\nbeta: -1", ""), &["line 4", "`beta` is `-1`", "> 0"]);
    says(&error("loss_type: dpo\nbeta:", ""), &["line 4", "`beta` is empty"]);
    says(&error("loss_type: dpo", "--beta much"), &["command line", "`much`"]);
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("data.jsonl");
    fs::write(&big, vec![b'#'; written::LARGEST_FILE as usize + 1]).unwrap();
    says(&load(&big, &[]).unwrap_err().to_string(), &["data.jsonl", "Is it the data file?"]);
    says(&load(&dir.path().join("none.yaml"), &[]).unwrap_err().to_string(), &["none.yaml", "cannot read"]);
}

#[test]
fn settings_that_are_seldom_meant_are_told() {
    says(&notices("preset: paper\nsafety_penalty: 40", ""), &["40", "get no gradient", "log_ratio_tail"]);
    assert_eq!(notices("preset: paper\nsafety_penalty: 40\nlog_ratio_tail: linear", ""), "");
    says(&notices("preset: paper\nlog_ratio_clamp: none", ""), &["unbounded below"]);
    assert_eq!(notices("preset: paper\nlog_ratio_clamp: none\ngenerator: logistic", ""), "");
    says(&notices("loss_type: safedpo\nsafety_transform: none", ""), &["swap_drop"]);
}

#[test]
fn every_ready_config_resolves_to_its_preset() {
    for preset in PRESETS {
        let text = init(preset.name).unwrap();
        let ready = resolve(&text, "").unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        let output_dir = ready.config.run.output_dir.display();
        let mut by_preset = config(&format!("preset: {}\noutput_dir: {output_dir}", preset.name), "");
        by_preset.model.model_name_or_path = ready.config.model.model_name_or_path.clone();
        assert_eq!(ready.config, by_preset, "{}", preset.name);
        assert_eq!(ready.notices, Vec::<String>::new(), "{}", preset.name);
    }
}

#[test]
fn what_a_ready_config_comments_out_is_the_default() {
    for preset in PRESETS {
        let text = init(preset.name).unwrap();
        let uncommented: Vec<_> = text
            .lines()
            .map(|line| {
                match line
                    .strip_prefix("# ")
                    .filter(|l| l.split(':').next().is_some_and(|k| key(k).is_some()))
                {
                    Some(setting) => setting,
                    None => line,
                }
            })
            .collect();
        let all = resolve(&uncommented.join("\n"), "").unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        let mut short = resolve(&text, "").unwrap();
        assert!(
            all.config.run.output_dir.ends_with("trainer_output"),
            "{}",
            all.config.run.output_dir.display()
        );
        short.config.run.output_dir = all.config.run.output_dir.clone();
        assert_eq!(all.config, short.config, "{}", preset.name);
    }
}

#[test]
fn unknown_methods_say_which_exist() {
    says(&init("safe-dpo").unwrap_err().to_string(), &["Did you mean `safedpo`?"]);
    says(&error("preset: papper", ""), &["unknown preset `papper`", "`paper`?"]);
    assert!(init("IPO-mean").unwrap().contains("loss_type: ipo_mean"));
}

#[test]
fn a_resolved_config_reads_back_as_itself() {
    let mut configs: Vec<TrainConfig> =
        PRESETS.iter().map(|p| config(&format!("preset: {}", p.name), "")).collect();
    configs.push(config(
        "loss_type: bso\ngenerator: {kernel: \"2*cosh(0.7*u)\"}\nlog_ratio_clamp: none\nlog_ratio_tail: linear\nmax_length: none\n\
         columns: {prompt: 'the: question'}\nchat_template: my.jinja\nresume_from_checkpoint: true\nmax_steps: 12\nmax_grad_norm: 0\n\
         ref_model: 'with $${X} and \"quotes\"'\noutput_dir: 'a b'\nnum_threads: 3\nwarmup_ratio: 0.03\nsave_total_limit: 2\n\
         dataset_format: flat\neval_strategy: no\nseed: 18446744073709551615\nlearning_rate: 3.3e-7",
        "",
    ));
    configs.push(config("loss_type: dpo\nresume_from_checkpoint: out/checkpoint-5\nchat_template: chatml\neval_strategy: epoch", ""));
    let file = "model_name_or_path: org/model@v1\ndataset_name: [a.jsonl, {name: org/pairs, weight: 0.5, split: train_prefs}]\n\
                loss_type: dpo\ndataset_test_split: test\neval_split: 0\neval_strategy: epoch";
    let mixture = resolve(file, "").unwrap().config;
    assert_eq!(mixture.data.named(), "/configs/a.jsonl, org/pairs");
    assert_eq!(mixture.model.model_name_or_path, Path::new("org/model@v1"));
    configs.push(mixture);
    for config in configs {
        let text = config.to_yaml();
        let again = resolve(&text, "").unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(again.config, config, "{text}");
        assert!(again.notices.iter().all(|n| n.contains("unbounded below")), "{:?}", again.notices);
        assert_eq!(again.config.fingerprint(), config.fingerprint());
    }
}

#[test]
fn the_fingerprint_follows_what_decides_the_result_and_nothing_else() {
    let of = |line: &str| config("preset: paper", line).fingerprint();
    let base = of("");
    for same in
        ["--output_dir o", "--logging_steps 1", "--num_threads 2", "--eval_strategy epoch", "--save_steps 3"]
    {
        assert_eq!(of(same), base, "{same}");
    }
    for other in [
        "--seed 1",
        "--beta 0.2",
        "--generator_lambda 0.3",
        "--max_length 10",
        "--eval_split 0",
        "--max_steps 3",
    ] {
        assert_ne!(of(other), base, "{other}");
    }
}

#[test]
fn every_supported_key_reaches_the_resolved_config() {
    let mut written: Vec<&str> = Vec::new();
    let more = "ref_model: r
margin_model: m
columns: {prompt: q}
warmup_ratio: 0.1
dataset_train_split: a
dataset_test_split: b
use_peft: true
metric_for_best_model: loss";
    for c in PRESETS.iter().flat_map(|p| {
        // PPO-Lagrangian samples from whole weights; some recipes need them in a stage.
        let more = match p.name {
            "ppo-lag" | "safe-rlhf" => more.replace("use_peft: true", "ptx_dataset_name: rows.jsonl"),
            "bfpo" => format!("{more}\nreplay_dataset_name: rows.jsonl"),
            "p-sacpo" | "mocan" => more.replace("use_peft: true", ""),
            _ => more.into(),
        };
        [config(&format!("preset: {}", p.name), ""), config(&format!("preset: {}\n{more}", p.name), "")]
    }) {
        written.extend(c.settings().iter().map(|(key, _)| key.name));
    }
    for single in [
        "generator: {kernel: \"cosh(u)\"}",
        "use_peft: true\nload_in_8bit: true",
        "use_peft: true\nload_in_4bit: true",
    ] {
        let config = config(&format!("loss_type: bso\n{single}"), "");
        written.extend(config.settings().iter().map(|(key, _)| key.name));
    }
    // Read into another key, or acting before anything is resolved.
    let merged = ["preset", "generator_lambda", "generator_scale", "generator_mu"];
    for key in keys().filter(|key| matches!(key.status, Status::Supported) && !merged.contains(&key.name)) {
        assert!(written.contains(&key.name), "{} is in the table but never resolved", key.name);
    }
}

#[test]
fn the_table_is_consistent() {
    let mut names: Vec<&str> =
        keys().flat_map(|k| std::iter::once(k.name).chain(k.aliases.iter().copied())).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a key or alias stands twice");
    let base = Path::new("/");
    for key in keys() {
        assert!(!key.doc.is_empty(), "{} has no sentence", key.name);
        let texts: Vec<&str> = match key.fallback {
            Fallback::Value(text) => vec![text],
            Fallback::By { cases, otherwise, .. } => cases.iter().map(|c| c.1).chain(otherwise).collect(),
            Fallback::Absent(_) => {
                assert!(!key.none.is_empty(), "{} may be absent and has no word for it", key.name);
                continue;
            }
            Fallback::Required => vec![key.example],
        };
        for text in texts {
            let setting = resolve::parse(key, text, base).unwrap_or_else(|e| panic!("{e}"));
            let again = resolve::parse(key, &value::to_yaml(key, &setting).replace('"', ""), base);
            assert_eq!(again.ok(), Some(setting), "{}: {text}", key.name);
        }
    }
    for preset in PRESETS {
        for (name, text) in preset.values() {
            resolve::parse(key(name).unwrap(), text, base).unwrap_or_else(|e| panic!("{}: {e}", preset.name));
        }
    }
}

#[test]
fn every_alternative_of_the_table_has_a_meaning() {
    fn check<E: ClosedSet>(name: &str) {
        let Kind::Choice(choices) = key(name).unwrap().kind else { panic!("{name}") };
        let supported: Vec<_> = choices.iter().filter(|c| c.not_yet.is_none()).map(|c| c.name).collect();
        let members: Vec<_> = E::ALL.iter().map(|m| m.name()).collect();
        assert_eq!(supported, members, "{name}");
    }
    check::<Stage>("stage");
    check::<Recipe>("recipe");
    check::<LossType>("loss_type");
    check::<Preference>("preference");
    check::<SafetyTransform>("safety_transform");
    check::<Schema>("dataset_format");
    check::<TruncationMode>("truncation_mode");
    check::<DTypeChoice>("dtype");
    check::<Tail>("log_ratio_tail");
    check::<crate::schedule::Decay>("lr_scheduler_type");
    check::<Optim>("optim");
    check::<Strategy>("eval_strategy");
    check::<SaveStrategy>("save_strategy");
    check::<Tracker>("report_to");
    let Kind::Choice(generators) = key("generator").unwrap().kind else { panic!() };
    assert_eq!(generators.iter().map(|c| c.name).collect::<Vec<_>>(), Generator::NAMES);
}

#[test]
fn warm_up_and_intervals_count_steps() {
    let c = config("preset: paper-qwen0.5b", "");
    assert_eq!((c.schedule.warmup_steps(59), c.schedule.warmup_steps(60)), (2, 3));
    assert_eq!(
        (c.schedule.total_steps(7), config("loss_type: dpo\nmax_steps: 5", "").schedule.total_steps(7)),
        (21, 5)
    );
    assert_eq!(config("loss_type: dpo\nnum_train_epochs: 0.5", "").schedule.total_steps(7), 4);
    assert!(config("loss_type: dpo", "--report_to tensorboard").run.report_to == Tracker::TensorBoard);
    let run = config("loss_type: dpo\nsave_steps: 4\neval_strategy: epoch", "").run;
    assert_eq!((1..=9).filter(|s| run.saves_after(*s, 3)).collect::<Vec<_>>(), [4, 8]);
    assert_eq!((1..=9).filter(|s| run.evaluates_after(*s, 3)).collect::<Vec<_>>(), [3, 6, 9]);
}

#[test]
fn paths_that_cannot_be_read_are_named_with_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = config("loss_type: dpo", "");
    says(
        &c.check_paths().unwrap_err().to_string(),
        &["`model_name_or_path`", "/configs/models/m", "does not exist", "hub"],
    );
    c.model.model_name_or_path = dir.path().to_owned();
    says(&c.check_paths().unwrap_err().to_string(), &["`dataset_name`"]);
    let file = dir.path().join("d.jsonl");
    fs::write(&file, "").unwrap();
    c.data.datasets[0].path = file.clone();
    c.check_paths().unwrap();
    c.model.ref_model = Some(file);
    says(&c.check_paths().unwrap_err().to_string(), &["`ref_model`", "is not a folder"]);
}

/// The generated file `name` in the repository equals `expected`; with BSO_WRITE_DOCS set it is written.
fn up_to_date(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    if std::env::var_os("BSO_WRITE_DOCS").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{name} is out of date: BSO_WRITE_DOCS=1 cargo test -p bso-recipes config");
}

#[test]
fn stages_with_a_scalar_head_have_safe_rlhfs_defaults_and_refuse_what_does_not_go_with_them() {
    let reward = config("stage: reward", "");
    assert_eq!((reward.stage, reward.objective.loss_type()), (Stage::Reward, LossType::Reward));
    assert_eq!((reward.schedule.num_train_epochs, reward.schedule.learning_rate), (2.0, 2e-5));
    assert_eq!((reward.data.max_length, reward.data.preference), (Some(512), Preference::Better));
    let cost = config("stage: cost\nscore_layout: safe-rlhf", "--regularization 0");
    assert_eq!(
        (cost.data.preference, cost.data.safety_transform),
        (Preference::Safer, SafetyTransform::None)
    );
    let head = (bso_model::ScoreKind::Cost, bso_model::ScoreLayout::SafeRlhf);
    assert_eq!(cost.objective.score_head(), Some(head));
    assert!(cost.objective.build().unwrap().formula().starts_with("-log sigmoid(c_l - c_w)"));
    for (yaml, parts) in [
        ("stage: cost\npreference: better", ["preference", "safer"]),
        ("stage: reward\nuse_peft: true\nscore_layout: safe_rlhf", ["use_peft", "score_layout"]),
        ("stage: reward\nloss_type: dpo", ["stage: reward", "loss_type: dpo"]),
        ("loss_type: cost", ["stage: preference", "loss_type: cost"]),
        ("stage: reward\nregularization: -1", ["regularization", ">= 0"]),
    ] {
        says(&error(yaml, ""), &parts);
    }
}

#[test]
fn ppo_lag_has_safe_rlhfs_defaults_and_says_what_it_needs() {
    let c = config("preset: ppo-lag\nptx_dataset_name: rows.jsonl", "");
    let ObjectiveSection::PpoLag(section) = &c.objective else { panic!("{:?}", c.objective) };
    assert_eq!((c.stage, c.objective.loss_type(), c.method()), (Stage::PpoLag, LossType::PpoLag, "ppo_lag"));
    assert_eq!((c.schedule.learning_rate, section.critic_learning_rate), (1e-5, 5e-6));
    assert_eq!(
        (section.ppo.kl_coeff, section.ppo.clip_range_ratio, section.ppo.gae_lambda),
        (0.01, 0.2, 0.95)
    );
    assert_eq!(
        (section.ppo.clip_range_score, section.ppo.clip_range_value, section.ppo.gamma),
        (50.0, 5.0, 1.0)
    );
    let multiplier = &section.multiplier;
    assert_eq!((multiplier.init, multiplier.rate, multiplier.max), (1.0, 0.1, Some(5.0)));
    assert_eq!((multiplier.threshold, multiplier.window, section.ptx_coeff), (0.0, 128, 16.0));
    assert_eq!(section.reward_model, Path::new("models/reward"));
    assert_eq!(section.ptx_datasets[0].path, Path::new("/configs/rows.jsonl"));
    assert_eq!(config("stage: ppo_lag\nlam: 1\nlambda_max: none", "").objective.models().len(), 2);
    let same = resolve(&format!("{NEEDED}stage: ppo_lag\nreward_model: m\ncost_model: m"), "").unwrap_err();
    says(&same.to_string(), &["cost_model", "the same"]);
    let lacking = resolve(&format!("{NEEDED}stage: ppo_lag"), "").unwrap_err().to_string();
    says(&lacking, &["reward_model", "models/reward"]);
    for (yaml, parts) in [
        ("stage: ppo_lag\nuse_peft: true", ["use_peft", "whole weights"]),
        ("stage: ppo_lag\neval_strategy: epoch", ["eval_strategy", "bso eval"]),
        ("stage: ppo_lag\nlambda_init: 6", ["lambda_init", "lambda_max"]),
        ("preset: ppo-lag\nkl_coeff: -1", ["kl_coeff", ">= 0"]),
        ("stage: ppo_lag\nclip_range_ratio: 1", ["clip_range_ratio", "(0, 1)"]),
        ("stage: ppo_lag\nloss_type: dpo", ["stage: ppo_lag", "loss_type: dpo"]),
        ("loss_type: ppo_lag", ["stage: preference", "loss_type: ppo_lag"]),
    ] {
        says(&error(yaml, ""), &parts);
    }
}

#[test]
fn the_documentation_is_up_to_date() {
    up_to_date("docs/configuration.md", &page());
}

#[test]
fn the_starter_configs_are_up_to_date() {
    for method in ["sft", "bso", "safedpo", "reward", "cost", "ppo-lag"] {
        up_to_date(&format!("configs/{method}.yaml"), &init(method).unwrap());
    }
}

#[test]
fn the_xstest_config_resolves_and_says_what_it_needs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/xstest-stories260k.yaml");
    let text = fs::read_to_string(path).unwrap();
    says(&resolve(&text, "").unwrap_err().to_string(), &["set BSO_SHARED to the folder", "data/stories260K"]);
    let c = resolve(&text.replace("BSO_SHARED", "DATA"), "").unwrap();
    assert_eq!(c.notices, Vec::<String>::new());
    assert_eq!(c.config.data.max_length, Some(512));
    assert_eq!(c.config.data.safety_transform, SafetyTransform::SwapDrop);
}
