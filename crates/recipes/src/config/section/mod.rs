//! The resolved configuration: one typed section per heading, each in a file that reads it from the layers and
//! writes it back.

pub(super) mod adapter;
mod best;
mod data;
mod model;
mod objective;
mod optimiser;
mod ppo_lag;
mod recipe;
mod run;
mod schedule;

pub use best::BestModel;
pub use data::{ChatTemplate, DataSection};
pub use model::ModelSection;
pub use objective::ObjectiveSection;
pub use optimiser::OptimiserSection;
pub use ppo_lag::PpoLagSection;
pub use recipe::RecipeSection;
pub use run::{Resume, RunSection};
pub use schedule::{ScheduleSection, Warmup};

use super::choices::ClosedSet;
use super::dataset::DatasetSource;
use super::value::Setting;
use std::path::Path;

/// Canonical keys with their resolved values, in the order of writing.
#[derive(Default)]
pub(super) struct Settings(pub Vec<(&'static str, Setting)>);

impl Settings {
    fn put(&mut self, name: &'static str, setting: Setting) {
        self.0.push((name, setting));
    }
    fn real(&mut self, name: &'static str, x: f64) {
        self.put(name, Setting::Real(x));
    }
    fn integer(&mut self, name: &'static str, n: u64) {
        self.put(name, Setting::Integer(n));
    }
    fn optional_integer(&mut self, name: &'static str, n: Option<u64>) {
        self.put(name, n.map_or(Setting::Absent, Setting::Integer));
    }
    fn optional_real(&mut self, name: &'static str, x: Option<f64>) {
        self.put(name, x.map_or(Setting::Absent, Setting::Real));
    }
    fn optional_datasets(&mut self, name: &'static str, sources: &[DatasetSource]) {
        if !sources.is_empty() {
            self.put(name, Setting::Datasets(sources.to_vec()));
        }
    }
    fn bool(&mut self, name: &'static str, flag: bool) {
        self.put(name, Setting::Bool(flag));
    }
    fn path(&mut self, name: &'static str, path: &Path) {
        self.put(name, Setting::Path(path.to_owned()));
    }
    fn optional_path(&mut self, name: &'static str, path: Option<&Path>) {
        self.put(name, path.map_or(Setting::Absent, |path| Setting::Path(path.to_owned())));
    }
    pub(super) fn choice(&mut self, name: &'static str, member: impl ClosedSet) {
        self.put(name, Setting::Choice(member.name()));
    }
}
