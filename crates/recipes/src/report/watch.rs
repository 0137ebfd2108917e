//! The page of a run that goes on: made anew when a file has changed, and never touching one.

use super::of_sources;
use super::sources::{Source, find};
use bso_durable::Fingerprint;
use bso_runs::report::{Polling, ReportData, render_live};
use bso_runs::{Manifest, Status};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Folders that are looked at again and again.
#[derive(Debug)]
pub struct Watched {
    dirs: Vec<PathBuf>,
    page: Option<(u64, String)>,
}

/// The files as they are now.
#[derive(Clone, Debug)]
pub struct Look {
    sources: Vec<Source>,
    /// Differs when a name, size or time of change differs.
    pub version: u64,
    /// Since the last change; none where there is no file yet.
    pub unchanged_for: Option<Duration>,
}

impl Watched {
    /// `dirs` need not exist yet.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, page: None }
    }

    /// Looks at names, sizes and times; opens no file.
    pub fn look(&self) -> Look {
        let there: Vec<PathBuf> = self.dirs.iter().filter(|dir| dir.is_dir()).cloned().collect();
        let sources = find(&there).unwrap_or_default();
        let mut hash = Fingerprint::new();
        let mut newest: Option<SystemTime> = None;
        for file in sources.iter().flat_map(Source::files) {
            let Some((length, changed)) = state_of(&file) else { continue };
            let since_epoch = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            hash.part(file.as_os_str().as_encoded_bytes())
                .part(length.to_le_bytes())
                .part(since_epoch.as_nanos().to_le_bytes());
            newest = newest.max(Some(changed));
        }
        let version = u64::from_str_radix(&hash.finish()[..16], 16).unwrap_or(0);
        let unchanged_for = newest.map(|newest| newest.elapsed().unwrap_or_default());
        Look { sources, version, unchanged_for }
    }

    /// What the files hold; a page that says so where there is nothing yet.
    pub fn data(&self, look: &Look) -> ReportData {
        if look.sources.is_empty() {
            let names: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
            return ReportData {
                title: names.join(", "),
                summary: "Nothing to show yet. This page fills when a run begins here.".to_owned(),
                ..ReportData::default()
            };
        }
        of_sources(&self.dirs, &look.sources)
    }

    /// The page, made anew only when something has changed.
    pub fn page(&mut self, every: Duration) -> &str {
        let look = self.look();
        if self.page.as_ref().is_none_or(|(version, _)| *version != look.version) {
            let every_ms = u32::try_from(every.as_millis()).unwrap_or(u32::MAX);
            let polling = Polling { every_ms, version: look.version };
            self.page = Some((look.version, render_live(&self.data(&look), polling)));
        }
        self.page.as_ref().map_or("", |(_, page)| page)
    }
}

impl Look {
    /// How long ago the files changed, in words.
    pub fn says(&self) -> String {
        match self.unchanged_for {
            None => "waiting for a run".to_owned(),
            Some(age) => format!("last change {} ago", in_words(age)),
        }
    }

    /// Whether there is something, and no run among it is under way (or was killed).
    pub fn is_over(&self) -> bool {
        let ended = |source: &Source| match source {
            Source::Run(run) => {
                Manifest::read(&run.manifest()).is_ok_and(|manifest| manifest.status != Status::Running)
            }
            Source::Evaluation(dir) => dir.join("results.json").is_file(),
            Source::Page(_) => true,
        };
        !self.sources.is_empty() && self.sources.iter().all(ended)
    }
}

/// "12 s", "3 min", "2 h".
fn in_words(age: Duration) -> String {
    match age.as_secs() {
        s if s < 100 => format!("{s} s"),
        s if s < 100 * 60 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

fn state_of(file: &Path) -> Option<(u64, SystemTime)> {
    let about = std::fs::metadata(file).ok()?;
    Some((about.len(), about.modified().ok()?))
}
