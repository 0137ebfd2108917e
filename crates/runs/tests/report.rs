//! The report as text: a snapshot of a tiny one, hostile data, and the report of a single run's files.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows them in tests, not in the helpers of tests")]

mod sample;

use bso_runs::report::{
    Curve, Estimate, Landmark, MethodReport, ReportData, SamplePrompt, SampleResponse, Scores, render_report,
    run_report, write_report,
};
use bso_runs::{
    Environment, Fingerprinted, LedgerRow, Manifest, MetricsLog, Opening, RunDirectory, Status, StepMetrics,
    key,
};
use std::fs;

fn tiny() -> ReportData {
    let scores = |reward: f64, safe: f64| Scores {
        reward: Some(Estimate::between(reward, reward - 0.1, reward + 0.1)),
        safe_rate: Some(Estimate::exact(safe)),
        ..Scores::default()
    };
    let method = |name: &str, reward: f64, safe: f64| MethodReport {
        name: name.into(),
        scores: Some(scores(reward, safe)),
        formula: "l(u)".into(),
        curves: vec![Curve { key: "loss".into(), points: vec![(0, Some(0.7)), (10, None), (20, Some(0.5))] }],
        ..MethodReport::default()
    };
    ReportData {
        title: "Tiny".into(),
        methods: vec![method("A", 1.0, 0.5), method("B", 0.5, 1.0)],
        landmarks: vec![Landmark {
            name: "Start".into(),
            description: String::new(),
            scores: scores(0.2, 0.7),
            place: None,
        }],
        samples: vec![SamplePrompt {
            kind: "benign".into(),
            about: String::new(),
            prompt: "Hello?".into(),
            responses: vec![SampleResponse {
                method: "A".into(),
                text: "Hi & bye".into(),
                reward: Some(-1.0),
                is_unsafe: Some(false),
                refusal: Some(true),
                facts: Vec::new(),
            }],
        }],
        ..ReportData::default()
    }
}

/// What stands between `<main>` and `</main>`: style and script may change without a new snapshot.
fn main_of(page: &str) -> &str {
    let (_, rest) = page.split_once("<main>").unwrap();
    rest.split_once("</main>").unwrap().0
}

#[test]
fn a_tiny_report_is_as_it_was() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/tiny_report.html");
    // One element per line, so that a difference can be read.
    let now = main_of(&render_report(&tiny())).replace("><", ">\n<");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(path, &now).unwrap();
    }
    let was = fs::read_to_string(path).unwrap_or_default();
    let different = was.lines().zip(now.lines()).position(|(a, b)| a != b);
    assert!(was == now, "line {different:?} differs; UPDATE_SNAPSHOTS=1 accepts the new page");
}

#[test]
fn hostile_text_stays_text_everywhere() {
    let hostile = "</script><img src=x onerror=alert(1)>\"'`{{data}}</main><!--\u{202e}\u{0}";
    let mut data = tiny();
    let h = || hostile.to_owned();
    (data.title, data.summary, data.made) = (h(), h(), h());
    data.notes = vec![h()];
    data.environment = vec![(h(), h())];
    data.ledgers = vec![bso_runs::report::LedgerTable {
        title: h(),
        rows: vec![LedgerRow { what: h(), count: 1, note: h() }],
    }];
    data.key_figures = vec![bso_runs::report::KeyFigure { label: h(), value: h(), note: h() }];
    data.landmarks[0].name = h();
    data.landmarks[0].description = h();
    for m in &mut data.methods {
        (m.name, m.description, m.formula, m.config) = (h(), h(), h(), h());
        m.curves[0].key = h();
    }
    data.samples[0].kind = h();
    data.samples[0].prompt = h();
    data.samples[0].responses[0].method = h();
    data.samples[0].responses[0].text = h();
    let page = render_report(&data);
    assert!(!page.contains("<img"), "an element was injected");
    assert!(!page.contains("\u{202e}") && !page.contains('\0'));
    assert_eq!(page.matches("</script>").count(), 3, "the page's own script and its two pieces of data");
    assert_eq!(page.matches("</main>").count(), 1);
    assert_eq!(page.matches("<!--").count(), 0);
    // A quote in data would end the attribute it stands in.
    assert!(!page.contains("onerror=alert(1)>\""));
    assert!(page.contains("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#39;`{{data}}"));
}

#[test]
fn the_page_needs_nothing_else() {
    let page = render_report(&sample::sample());
    for outside in ["http://", "https://", "src=\"", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    assert_eq!(page, render_report(&sample::sample()), "equal data, equal bytes");
}

#[test]
fn absent_and_non_finite_figures_are_dashes() {
    assert!(render_report(&ReportData::default()).contains("<h1></h1>"));
    let mut data = tiny();
    data.methods[0].scores = Some(Scores {
        reward: Some(Estimate::between(f64::NAN, f64::NAN, f64::INFINITY)),
        ..Scores::default()
    });
    data.methods[1].curves[0].points = vec![(5, Some(f64::NAN)), (5, Some(f64::INFINITY))];
    data.methods[0].curves[0].points = vec![(0, Some(1e308)), (u64::MAX, Some(-1e308))];
    let page = render_report(&data);
    assert!(page.contains("<td>–</td>"));
    assert!(!main_of(&page).contains("NaN") && !main_of(&page).contains(">inf"));
    let json = serde_json::to_string(&data).unwrap();
    serde_json::from_str::<ReportData>(&json).unwrap();
}

#[test]
fn report_data_survives_json() {
    let data = sample::sample();
    let json = serde_json::to_string(&data).unwrap();
    let back: ReportData = serde_json::from_str(&json).unwrap();
    assert_eq!(back.methods.len(), data.methods.len());
    assert_eq!(back.methods[1].curves[0].points[310], data.methods[1].curves[0].points[310]);
}

#[test]
fn long_curves_are_thinned_and_it_is_said() {
    let points = (0..100_000).map(|i| (i, Some((i as f64).sin()))).collect();
    let curves = vec![Curve { key: "loss".into(), points }];
    let page = render_report(&ReportData {
        methods: vec![MethodReport { name: "A".into(), curves, ..MethodReport::default() }],
        ..ReportData::default()
    });
    assert!(page.contains("points are means of 834 logged rows"));
    assert!(page.len() < 100_000);
}

#[test]
fn a_run_alone_has_curves_ledger_and_settings() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDirectory::open(dir.path().join("my-run"), &Opening::default()).unwrap();
    assert!(run_report(&run).unwrap_err().to_string().contains("metrics.jsonl"));
    let mut log = MetricsLog::create(&run.metrics()).unwrap();
    for step in 1..=5 {
        let mut row = StepMetrics::new(step, step as f64 / 5.0);
        row.put(key::LOSS, 1.0 / step as f64).put("eval_loss", 0.5).put(key::REWARDS_ACCURACIES, 0.75);
        log.append(&row).unwrap();
    }
    fs::write(run.config(), "beta: 0.1\n").unwrap();
    manifest().write(&run.manifest()).unwrap();
    let data = run_report(&run).unwrap();
    write_report(&run.report(), &data).unwrap();
    let page = fs::read_to_string(run.report()).unwrap();
    for part in ["my-run", "Held-out loss", "beta: 0.1", "swapped", "Finished after 5 steps", "75.0 %"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("id=\"plane\""));
}

fn manifest() -> Manifest {
    Manifest {
        format: Manifest::FORMAT,
        status: Status::Finished { step: 5 },
        started: "2026-01-01T00:00:00Z".into(),
        environment: Environment::detect(),
        stage: "preference".into(),
        objective: "l(u)".into(),
        reference: None,
        device: "cpu".into(),
        dtype: "f32".into(),
        num_threads: 2,
        seed: 0,
        trainable_parameters: 10,
        fingerprints: vec![("data".into(), Fingerprinted { name: "a.jsonl".into(), sha256: "00ff".into() })],
        ledger: vec![LedgerRow::new("swapped", 520)],
        more: serde_json::Map::new(),
    }
}

#[test]
fn a_resume_with_other_ingredients_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.json");
    let was = manifest();
    was.write(&path).unwrap();
    assert_eq!(Manifest::read(&path).unwrap(), was);
    let mut is = was.clone();
    assert!(was.differences(&is).is_empty());
    is.fingerprints[0].1.sha256 = "11ff".into();
    is.seed = 1;
    assert_eq!(
        was.differences(&is),
        ["seed was 0 and is now 1", "data was a.jsonl (00ff) and is now a.jsonl (11ff)"]
    );
    fs::write(&path, serde_json::to_string(&is).unwrap().replace("\"format\":1", "\"format\":2")).unwrap();
    assert!(Manifest::read(&path).unwrap_err().to_string().contains("newer"));
}
