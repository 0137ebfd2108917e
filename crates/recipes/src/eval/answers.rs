//! One answer for every prompt and model; those of an earlier call with the same settings are kept.

use super::{EvalConfig, Watch, write_samples};
use crate::RecipeError;
use crate::generate::{AnswerSettings, ChatModel};
use crate::location::local_model;
use bso_data::{Message, TemplateChoice};
use bso_durable::{Event, Fingerprint, Observer, Seed, Task};
use bso_evaluation::{Prompt, Sample};
use bso_model::{DType, Device, Engine, GenerateConfig, ModelError};
use rand::Rng;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Prompts that are answered together: what an interruption can lose. Each has its own random stream by its place in the
/// chunk, and chunks are the same in every call.
const CHUNK: usize = 32;

/// Answers that are there, by model and prompt.
pub(super) struct Answers<'a> {
    config: &'a EvalConfig,
    prompts: &'a [Prompt],
    file: PathBuf,
    /// `kept[model][prompt]`.
    kept: Vec<Vec<Option<Sample>>>,
}

impl<'a> Answers<'a> {
    /// Takes up what `file` holds of an earlier call.
    pub(super) fn resume(
        config: &'a EvalConfig,
        prompts: &'a [Prompt],
        file: &Path,
    ) -> Result<Self, RecipeError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(RecipeError::input(format!("cannot read {}: {e}", file.display()))),
        };
        // Lines that are not read back are answered again.
        let earlier = text.lines().filter_map(|line| serde_json::from_str::<Sample>(line).ok());
        let mut by_key: HashMap<(String, String, usize), Sample> = HashMap::new();
        for sample in earlier {
            by_key.insert((sample.model.clone(), sample.prompt.set.clone(), sample.prompt.id), sample);
        }
        let kept = config.models.iter().map(|model| {
            let key = |p: &Prompt| (model.name.clone(), p.set.clone(), p.id);
            prompts.iter().map(|p| by_key.remove(&key(p)).filter(|s| s.prompt == *p)).collect()
        });
        Ok(Self { config, prompts, file: file.to_owned(), kept: kept.collect() })
    }

    /// Generates what is missing, saving after every chunk.
    pub(super) fn complete(&mut self, watch: Watch<'_>) -> Result<(), RecipeError> {
        for model in 0..self.config.models.len() {
            let named = &self.config.models[model];
            let dir = local_model(&named.path, watch.1)?;
            let settings = settings_of(self.config, &dir)?;
            for sample in &mut self.kept[model] {
                if sample.as_ref().is_some_and(|s| s.settings != settings) {
                    *sample = None;
                }
            }
            let missing: Vec<_> = chunks(self.prompts)
                .into_iter()
                .filter(|chunk| self.kept[model][chunk.clone()].iter().any(Option::is_none))
                .collect();
            let kept = self.kept[model].iter().flatten().count();
            if kept > 0 {
                watch.1.event(Event::Note(format!("kept        {kept} answers of {}", named.name)));
            }
            if missing.is_empty() {
                continue;
            }
            self.answer(model, &dir, &settings, &missing, watch)?;
        }
        Ok(())
    }

    fn answer(
        &mut self,
        model: usize,
        dir: &Path,
        settings: &str,
        missing: &[std::ops::Range<usize>],
        (interrupt, observer): Watch<'_>,
    ) -> Result<(), RecipeError> {
        let (config, name) = (self.config, self.config.models[model].name.clone());
        let chat = open(config, dir)?;
        let total = missing.iter().map(|chunk| chunk.len() as u64).sum();
        let task = Mutex::new(Task::start(observer, format!("{name} answers"), Some(total), "prompts"));
        let relay = Relay { task: &task, said: Mutex::new(0), observer };
        for chunk in missing {
            let prompts = &self.prompts[chunk.clone()];
            let conversations: Vec<Vec<Message>> =
                prompts.iter().map(|p| vec![Message::user(p.prompt.as_str())]).collect();
            *relay.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = 0;
            let sampling = AnswerSettings { sampling: sampling(config, &prompts[0]), stop_texts: Vec::new() };
            let answers = chat.answer(&conversations, &sampling, (interrupt, &relay))?;
            for ((at, prompt), answer) in chunk.clone().zip(prompts).zip(answers) {
                let text = (answer.text, answer.finish_reason.name(), answer.new_tokens);
                self.kept[model][at] = Some(Sample::new(prompt.clone(), &name, text, settings));
            }
            let known: Vec<Vec<Sample>> =
                self.kept.iter().map(|samples| samples.iter().flatten().cloned().collect()).collect();
            write_samples(&self.file, &known)?;
        }
        Ok(())
    }

    /// The answers of every model, in the order of the prompts.
    pub(super) fn into_samples(self) -> Vec<Vec<Sample>> {
        self.kept.into_iter().map(|samples| samples.into_iter().flatten().collect()).collect()
    }
}

/// Runs of at most [`CHUNK`] prompts of one set.
fn chunks(prompts: &[Prompt]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for at in 1..=prompts.len() {
        let ends = at == prompts.len() || prompts[at].set != prompts[start].set || at - start == CHUNK;
        if ends {
            found.push(start..at);
            start = at;
        }
    }
    found
}

/// A model with its tokenizer, in the evaluation's arithmetic.
pub(super) fn open(config: &EvalConfig, dir: &Path) -> Result<ChatModel, RecipeError> {
    let device = Device::parse(&config.device).map_err(ModelError::from)?;
    let engine = Arc::new(Engine::on(device, config.num_threads).map_err(ModelError::from)?);
    let mut model = ChatModel::open(dir, &TemplateChoice::parse(&config.chat_template), engine)?;
    model.decoder.compute_in(DType::parse(&config.dtype).map_err(ModelError::from)?, false)?;
    Ok(model)
}

fn sampling(config: &EvalConfig, first: &Prompt) -> GenerateConfig {
    let seed = Seed::new(config.seed).derive(&format!("answers to {}", first.set), first.id as u64);
    GenerateConfig {
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature,
        top_p: config.top_p,
        top_k: config.top_k,
        seed: seed.rng().random(),
        stop_ids: Vec::new(),
        batch_size: config.batch_size,
    }
}

/// A hash of what decides an answer beside the prompt: sampling, template, arithmetic, and the model's files by name, size
/// and time of change.
fn settings_of(config: &EvalConfig, dir: &Path) -> Result<String, RecipeError> {
    let mut hash = Fingerprint::new();
    let numbers = [config.temperature.to_bits(), config.top_p.to_bits(), config.top_k as u64];
    for number in numbers.into_iter().chain([config.max_new_tokens as u64, config.seed, CHUNK as u64]) {
        hash.part(number.to_le_bytes());
    }
    // What `auto` means here: another device gives other last bits, and so may sample other tokens.
    let device = Device::parse(&config.device).map_err(ModelError::from)?;
    hash.part(&config.dtype).part(device.to_string()).part(&config.chat_template);
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .map_err(|e| RecipeError::input(format!("cannot read the model {}: {e}", dir.display())))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = [".json", ".safetensors", ".jinja", ".bin"].iter().any(|end| name.ends_with(end));
        let about = std::fs::metadata(entry.path())?;
        if read && about.is_file() {
            let changed = about.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            hash.part(&name).part(about.len().to_le_bytes()).part(changed.as_nanos().to_le_bytes());
        }
    }
    Ok(hash.finish()[..16].to_owned())
}

/// Makes the progress of each chunk that of the whole.
struct Relay<'a, 'b> {
    task: &'b Mutex<Task<'a>>,
    said: Mutex<u64>,
    observer: &'a dyn Observer,
}

impl Observer for Relay<'_, '_> {
    fn event(&self, event: Event) {
        let (done, detail) = match event {
            Event::Started { .. } => return,
            Event::Advanced { done, detail } => (done, detail),
            Event::Finished { done, .. } => (done, String::new()),
            other => return self.observer.event(other),
        };
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        task.advance(done.saturating_sub(*said), || detail);
        *said = done;
    }
}
