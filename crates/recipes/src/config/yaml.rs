//! The resolved configuration as YAML that resolves to itself, and the fingerprint of what decides the result.

use super::TrainConfig;
use super::choices::ClosedSet;
use super::key::Category;
use super::section::Settings;
use super::value::{Setting, to_yaml};
use super::{Key, table};
use bso_durable::Fingerprint;

impl TrainConfig {
    /// Every key that the run reads, with its value.
    pub fn settings(&self) -> Vec<(&'static Key, Setting)> {
        let mut out = Settings::default();
        out.choice("stage", self.stage);
        self.model.write(&mut out);
        self.data.write(self.objective.loss_type(), &mut out);
        self.objective.write(&mut out);
        super::section::RecipeSection::write(self.recipe.as_ref(), &mut out);
        self.schedule.write(&mut out);
        self.optimiser.write(&mut out);
        super::section::adapter::write(self.adapter.as_ref(), &mut out);
        super::section::adapter::write_quantisation(self.quantisation, &mut out);
        self.run.write(&mut out);
        out.0.into_iter().filter_map(|(name, setting)| table::key(name).map(|key| (key, setting))).collect()
    }

    /// The configuration as a YAML file; reading it gives the same configuration again. All paths are absolute.
    pub fn to_yaml(&self) -> String {
        let mut text = String::from("# The resolved configuration of a run: every key that it reads.\n");
        let mut category: Option<Category> = None;
        for (key, setting) in self.settings() {
            if category != Some(key.category) {
                text.push_str(&format!("\n# {}\n", key.category.title()));
                category = Some(key.category);
            }
            text.push_str(&format!("{}: {}\n", key.name, to_yaml(key, &setting)));
        }
        text
    }

    /// Every key that the run reads, with its value as it stands in the file.
    pub fn parameters(&self) -> Vec<(String, String)> {
        let settings = self.settings().into_iter();
        settings.map(|(key, setting)| (key.name.to_owned(), to_yaml(key, &setting))).collect()
    }

    /// A hash of every setting that the trained weights depend on. Files count by their paths here; their contents
    /// have fingerprints of their own. Thread count, output folder, logging, evaluation and checkpoints do not count.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::new();
        fingerprint.part("train-config-1");
        for (key, setting) in self.settings().into_iter().filter(|(key, _)| key.decides_result) {
            fingerprint.part(key.name).part(to_yaml(key, &setting));
        }
        fingerprint.finish()
    }

    /// What is trained, in a word or two: "sft", "bso", "dpo".
    pub fn method(&self) -> &'static str {
        match self.objective.loss_type() {
            super::LossType::Nll => "sft",
            loss => loss.name(),
        }
    }
}
