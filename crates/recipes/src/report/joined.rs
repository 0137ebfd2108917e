//! Runs, evaluations and pages put together: each model under one name, whether it was trained, evaluated or both.

use super::evaluations::{Evaluation, Model};
use bso_evaluation::{PromptKind, Refusal, Sample};
use bso_runs::report::{
    Axes, Estimate, KeyFigure, Landmark, LedgerTable, MethodReport, Place, ReportData, SamplePrompt,
    SampleResponse, Scores,
};
use bso_runs::{Change, Evidence, diagnose};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the axes may be, best first: of helpfulness and of safety. The last is the detector's word, where there is no other.
const HELPFULNESS: [(&str, &str); 3] = [
    ("reward", "Mean reward"),
    ("judge_helpfulness", "Helpfulness by the judge"),
    ("over_refusal", "Safe prompts answered"),
];
const SAFETY: [(&str, &str); 3] = [
    ("safe_rate", "Safe rate"),
    ("judge_safe", "Safe by the judge"),
    ("harmless_ratio", "Unsafe prompts refused"),
];

/// The page as it grows.
#[derive(Default)]
pub(super) struct Joined {
    data: ReportData,
    /// Folder, and the index of its method.
    runs: Vec<(PathBuf, usize)>,
    /// What each run or page says of its environment, and of its summary.
    environments: Vec<(String, Vec<(String, String)>)>,
    single: Option<(String, String, String, Vec<KeyFigure>)>,
    evaluations: Vec<Evaluation>,
    /// For each evaluation the page's names of its models.
    names: Vec<Vec<String>>,
    pages: usize,
    samples: HashMap<(String, usize, String), usize>,
}

impl Joined {
    pub(super) fn add_run(&mut self, dir: &Path, run: ReportData) {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        self.single = Some((run.title, run.summary, run.made, run.key_figures));
        self.data.problems.extend(run.problems);
        for method in run.methods {
            self.environments.push((method.name.clone(), run.environment.clone()));
            self.data.ledgers.extend(
                run.ledgers.iter().map(|ledger| LedgerTable { title: method.name.clone(), ..ledger.clone() }),
            );
            self.runs.push((dir.clone(), self.data.methods.len()));
            self.data.methods.push(method);
        }
    }

    /// Runs of one name are told apart by the folders above them.
    pub(super) fn tell_names_apart(&mut self) {
        for _ in 0..3 {
            let names: Vec<String> = self.data.methods.iter().map(|m| m.name.clone()).collect();
            let twice = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
            for (dir, index) in self.runs.clone().iter().filter(|(_, index)| twice(&names[*index])) {
                let parts = names[*index].split('/').count();
                let all: Vec<_> = dir.components().map(|c| c.as_os_str().to_string_lossy()).collect();
                let name = all[all.len().saturating_sub(parts + 1)..].join("/");
                self.rename(*index, name);
            }
        }
    }

    fn rename(&mut self, index: usize, name: String) {
        // Everything of a run stands at the run's own place in these lists, as long as only runs were added.
        if let Some((of, _)) = self.environments.get_mut(index) {
            of.clone_from(&name);
        }
        let was = std::mem::replace(&mut self.data.methods[index].name, name.clone());
        let before = self.data.methods[..index].iter().filter(|m| m.name == was).count();
        let mut ledgers = self.data.ledgers.iter_mut().filter(|l| l.title == was);
        if let Some(ledger) = ledgers.nth(before) {
            ledger.title = name;
        }
    }

    /// A demo's page.
    pub(super) fn add_page(&mut self, path: &Path) {
        let read = std::fs::read_to_string(path).map_err(|e| e.to_string());
        let page: ReportData = match read
            .and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()))
        {
            Ok(page) => page,
            Err(reason) => {
                self.data.problems.push(format!("{} is not as a demo writes it: {reason}", path.display()));
                return;
            }
        };
        self.pages += 1;
        let of = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let taken: Vec<String> = self.data.methods.iter().map(|m| m.name.clone()).collect();
        let landmarks: Vec<String> = self.data.landmarks.iter().map(|l| l.name.clone()).collect();
        let renamed = |name: &str| {
            let is_taken = taken.iter().chain(&landmarks).any(|other| other == name);
            if is_taken { format!("{name} ({of})") } else { name.to_owned() }
        };
        self.environments.push((of.clone(), page.environment.clone()));
        self.single = Some((page.title, page.summary, page.made, page.key_figures));
        self.data.problems.extend(page.problems);
        self.data
            .methods
            .extend(page.methods.into_iter().map(|m| MethodReport { name: renamed(&m.name), ..m }));
        self.data
            .landmarks
            .extend(page.landmarks.into_iter().map(|l| Landmark { name: renamed(&l.name), ..l }));
        self.data.ledgers.extend(page.ledgers);
        self.data.evaluations.extend(page.evaluations);
        self.data.notes.extend(page.notes);
        for mut sample in page.samples {
            for response in &mut sample.responses {
                response.method = renamed(&response.method);
            }
            self.data.samples.push(sample);
        }
    }

    /// The output of `bso eval`.
    pub(super) fn add_evaluation(&mut self, dir: &Path) {
        let known = self.data.problems.len();
        let Some(evaluation) = Evaluation::read(dir, &mut self.data.problems) else {
            if self.data.problems.len() == known {
                self.data.problems.push(format!("{} holds no answers yet", dir.display()));
            }
            return;
        };
        let names: Vec<String> =
            evaluation.models.iter().map(|model| self.name_of(model, &evaluation)).collect();
        self.data.evaluations.extend(evaluation.tables(|model| names[model].clone()));
        self.warn(&evaluation, &names);
        let by_model: HashMap<&str, &String> =
            evaluation.models.iter().map(|m| m.name.as_str()).zip(&names).collect();
        for sample in &evaluation.samples {
            let name = by_model.get(sample.model.as_str()).copied().unwrap_or(&sample.model);
            add_sample(&mut self.data.samples, &mut self.samples, sample, name);
        }
        self.evaluations.push(evaluation);
        self.names.push(names);
    }

    /// The page's name of a model: of the run whose folder it is, else its own, as a landmark if it is the baseline.
    fn name_of(&mut self, model: &Model, evaluation: &Evaluation) -> String {
        let dir = model.path.as_deref().and_then(|path| path.canonicalize().ok());
        if let Some((_, index)) = dir.and_then(|dir| self.runs.iter().find(|(run, _)| *run == dir)) {
            return self.data.methods[*index].name.clone();
        }
        let data = &mut self.data;
        let is_taken = |name: &str| {
            data.methods.iter().any(|m| m.name == name) || data.landmarks.iter().any(|l| l.name == name)
        };
        let name = if is_taken(&model.name) {
            format!("{} ({})", model.name, evaluation.title)
        } else {
            model.name.clone()
        };
        if model.name == evaluation.baseline {
            let description = "the evaluation's baseline".to_owned();
            data.landmarks.push(Landmark { name: name.clone(), description, ..Landmark::default() });
        } else {
            data.methods.push(MethodReport { name: name.clone(), ..MethodReport::default() });
        }
        name
    }

    /// What answers warn of, beside what the training rows do.
    fn warn(&mut self, evaluation: &Evaluation, names: &[String]) {
        let baseline = evaluation.models.iter().find(|m| m.name == evaluation.baseline);
        for (model, name) in evaluation.models.iter().zip(names) {
            let change = |metric: &str| {
                Some(Change {
                    before: baseline?.metric(metric)?,
                    after: model.metric(metric)?,
                    difference: model.difference(metric),
                })
            };
            let evidence = Evidence {
                rows: &[],
                over_refusal: change("over_refusal"),
                new_tokens: change("new_tokens"),
            };
            let method = self.data.methods.iter_mut().find(|m| m.name == *name);
            if let Some(method) = method.filter(|_| model.name != evaluation.baseline) {
                method.findings.extend(diagnose(&evidence));
            }
        }
    }

    /// Scores and places from the evaluations; then title, environment and notes.
    pub(super) fn into_page(mut self, dirs: &[PathBuf]) -> ReportData {
        self.place();
        self.warn_of_pages();
        let sources = self.runs.len() + self.pages;
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        match self.single.take().filter(|_| sources == 1) {
            Some((title, summary, made, key_figures)) => {
                let evaluated = match self.evaluations.len() {
                    0 => String::new(),
                    count => format!(" With {}", counted(&[(count, "evaluation")])),
                };
                self.data.title = title;
                self.data.summary = summary + &evaluated;
                self.data.made = made;
                self.data.key_figures = key_figures;
            }
            None => {
                self.data.title = shortened(&names.join(", "));
                self.data.summary = counted(&[
                    (self.runs.len(), "training run"),
                    (self.evaluations.len(), "evaluation"),
                    (self.pages, "demo"),
                ]);
            }
        }
        self.data.ledgers = merged(std::mem::take(&mut self.data.ledgers));
        self.data.environment = environment(&self.environments);
        self.data
    }

    fn place(&mut self) {
        let models = || self.evaluations.iter().flat_map(|e| &e.models);
        let scored = self.data.methods.iter().any(|m| m.scores.is_some());
        let first = |of: &[(&'static str, &'static str); 3]| {
            of.iter().copied().find(|(metric, _)| models().any(|m| m.metric(metric).is_some()))
        };
        // Beside a demo's exact figures only the same kind of axis makes sense.
        let axes =
            if scored { Some((HELPFULNESS[0], SAFETY[0])) } else { first(&HELPFULNESS).zip(first(&SAFETY)) };
        let mut given: Vec<&str> = Vec::new();
        for (model, name) in
            self.evaluations.iter().zip(&self.names).flat_map(|(e, names)| e.models.iter().zip(names))
        {
            if given.contains(&name.as_str()) {
                self.data.notes.push(format!(
                    "{name} stands in several evaluations: results and plane show the first, the tables of metrics all."
                ));
                continue;
            }
            given.push(name);
            let scores = scores(model);
            let place = axes.and_then(|((helpfulness, _), (safety, _))| {
                Some(Place {
                    helpfulness: coordinate(model, helpfulness)?,
                    safety: coordinate(model, safety)?,
                })
            });
            if let Some(method) = self.data.methods.iter_mut().find(|m| m.name == *name) {
                (method.scores, method.place) = (Some(scores), place);
            } else if let Some(landmark) = self.data.landmarks.iter_mut().find(|l| l.name == *name) {
                (landmark.scores, landmark.place) = (scores, place);
            }
        }
        if let Some(((_, helpfulness), (_, safety))) =
            axes.filter(|axes| (axes.0, axes.1) != (HELPFULNESS[0], SAFETY[0]))
        {
            let (helpfulness, safety) = (helpfulness.to_owned(), safety.to_owned());
            self.data.axes = Some(Axes { helpfulness, safety });
        }
        let by_detector = axes.is_some_and(|axes| axes.0 == HELPFULNESS[2] || axes.1 == SAFETY[2]);
        if by_detector {
            self.data.notes.push(
                "An axis of the plane rests on the refusal detector, which is no judge: it sees how an answer begins, not \
                 whether it helps or harms."
                    .to_owned(),
            );
        }
    }

    fn warn_of_pages(&mut self) {
        if self.evaluations.len() + self.pages > 1 {
            self.data.notes.push(
                "Points come from several evaluations. They can be compared only where prompts, sampling and scorers were the \
                 same."
                    .to_owned(),
            );
        }
    }
}

fn scores(model: &Model) -> Scores {
    Scores {
        reward: model.metric("reward"),
        safe_rate: model.metric("safe_rate"),
        over_refusal: model.metric("over_refusal"),
        kl_from_reference: model.metric("kl"),
        ..Scores::NONE
    }
}

/// More is better on both axes: of refusals to safe prompts the rest is shown.
fn coordinate(model: &Model, metric: &str) -> Option<Estimate> {
    let e = model.metric(metric)?;
    if metric != "over_refusal" {
        return Some(e);
    }
    Some(Estimate {
        mean: 1.0 - e.mean,
        low: e.high.map(|high| 1.0 - high),
        high: e.low.map(|low| 1.0 - low),
    })
}

/// Answers to one prompt stand together, whichever evaluation they are from.
fn add_sample(
    samples: &mut Vec<SamplePrompt>,
    places: &mut HashMap<(String, usize, String), usize>,
    sample: &Sample,
    name: &str,
) {
    let prompt = &sample.prompt;
    let place = places.entry((prompt.set.clone(), prompt.id, prompt.prompt.clone())).or_insert_with(|| {
        let kind = match prompt.kind {
            PromptKind::Safe => "safe prompt",
            PromptKind::Unsafe => "unsafe prompt",
            PromptKind::Unknown => "unlabelled prompt",
        };
        let about = std::iter::once(prompt.set.as_str()).chain(prompt.category.as_deref());
        samples.push(SamplePrompt {
            kind: kind.to_owned(),
            about: about.collect::<Vec<_>>().join(" · "),
            prompt: prompt.prompt.clone(),
            responses: Vec::new(),
        });
        samples.len() - 1
    });
    let by_cost = sample.cost.map(|cost| cost > 0.0);
    samples[*place].responses.push(SampleResponse {
        method: name.to_owned(),
        text: sample.response.clone(),
        reward: sample.reward,
        is_unsafe: by_cost.or(sample.judge_safe.map(|safe| !safe)),
        refusal: Some(sample.refusal.is_refusal()),
        facts: facts(sample),
    });
}

fn facts(sample: &Sample) -> Vec<String> {
    let mut facts = Vec::new();
    facts.extend(sample.cost.map(|cost| format!("cost {}", bso_runs::report::number(cost))));
    facts.extend(sample.judge_helpfulness.map(|grade| format!("judge {grade}/10")));
    // Where the cost model decides, the judge's word is a second one.
    if sample.cost.is_some() {
        facts
            .extend(sample.judge_safe.map(|safe| format!("judge: {}", if safe { "safe" } else { "unsafe" })));
    }
    if sample.refusal == Refusal::Partial {
        facts.push("in part".to_owned());
    }
    if sample.degenerate {
        facts.push("degenerate".to_owned());
    }
    if sample.finish_reason != "stop" {
        facts.push("cut".to_owned());
    }
    facts
}

/// Equal ledgers once, under the names of all that have them.
fn merged(ledgers: Vec<LedgerTable>) -> Vec<LedgerTable> {
    let mut kept: Vec<LedgerTable> = Vec::new();
    for ledger in ledgers {
        match kept.iter_mut().find(|other| other.rows == ledger.rows) {
            Some(same) => same.title = format!("{}, {}", same.title, ledger.title),
            None => kept.push(ledger),
        }
    }
    kept
}

/// What is the same everywhere once; what differs, with the names that it holds for.
fn environment(all: &[(String, Vec<(String, String)>)]) -> Vec<(String, String)> {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in all.iter().flat_map(|(_, entries)| entries) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let mut found = Vec::new();
    for key in keys {
        let mut values: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, entries) in all {
            for (_, value) in entries.iter().filter(|(k, _)| k == key) {
                match values.iter_mut().find(|(v, _)| v == value) {
                    Some((_, names)) => names.push(name),
                    None => values.push((value, vec![name])),
                }
            }
        }
        let alone = values.len() == 1;
        found.extend(values.into_iter().map(|(value, names)| {
            let of = if alone { key.to_owned() } else { format!("{key} ({})", shortened(&names.join(", "))) };
            (of, value.to_owned())
        }));
    }
    found
}

/// "2 training runs and 1 evaluation."
fn counted(counts: &[(usize, &str)]) -> String {
    let parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    format!("{}.", parts.join(" and "))
}

fn shortened(text: &str) -> String {
    const MOST: usize = 90;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
