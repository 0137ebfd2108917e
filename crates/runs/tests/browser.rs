//! The report in a browser: the script runs under the page's own policy, and hovering, keys and filters do what they
//! should. Needs Chromium (`$CHROMIUM`, `chromium`, `chromium-browser` or `google-chrome`); without it each test
//! says why it is skipped.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "clippy.toml allows them in tests, not in the helpers of tests"
)]

mod sample;

use bso_runs::report::render_report;
use std::fs;
use std::process::{Command, Stdio};

/// The document after loading `page`; none where no browser is installed.
fn dump_dom(page: &str, extra: &[&str]) -> Option<String> {
    let named = std::env::var("CHROMIUM").ok();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let runs = |name: &str| {
        let version =
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|s| s.success())
    };
    let Some(browser) = named.as_deref().into_iter().chain(names).find(|name| runs(name)) else {
        eprintln!("skipped: no Chromium found (set CHROMIUM to its path)");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    fs::write(&path, page).unwrap();
    let out = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--virtual-time-budget=5000", "--timeout=60000", "--window-size=1200,900", "--dump-dom"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .args(extra)
        .arg(format!("file://{}", path.display()))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

/// The page with listeners before everything and checks after everything. The policy is loosened for them alone.
fn with_checks(page: &str) -> String {
    let (before, rest) = page.split_once("script-src '").unwrap();
    let (_, after) = rest.split_once('\'').unwrap();
    let page = format!("{before}script-src 'unsafe-inline'{after}");
    let listen = "<script>window.problems = [];\
        addEventListener('error', (e) => problems.push(e.message));\
        addEventListener('securitypolicyviolation', (e) => problems.push(e.violatedDirective));\
        console.error = (...a) => problems.push(a.join(' '));</script>";
    let checks = concat!("<script>", include_str!("browser/checks.js"), "</script></body>");
    page.replacen("<style>", &format!("{listen}<style>"), 1).replacen("</body>", checks, 1)
}

#[test]
fn the_script_runs_under_the_pages_policy() {
    if let Some(dom) = dump_dom(&render_report(&sample::sample()), &[]) {
        assert!(dom.contains("data-ready=\"yes\""), "the policy's hash does not allow the page's script");
    }
}

#[test]
fn hover_keys_and_filters_work_without_errors() {
    if let Some(dom) = dump_dom(&with_checks(&render_report(&sample::sample())), &[]) {
        let (_, said) = dom.split_once("<pre id=\"checks\">").expect("the checks did not finish");
        let said = said.split_once("</pre>").unwrap().0;
        assert_eq!(said, "all passed");
    }
}

#[test]
fn injected_scripts_do_not_run() {
    let page = render_report(&sample::sample());
    let attack = "<script>document.documentElement.dataset.attacked = 'yes'</script>\
                  <img src=x onerror=\"document.documentElement.dataset.attacked = 'yes'\"></main>";
    // Even if escaping failed somewhere, the policy holds.
    if let Some(dom) = dump_dom(&page.replacen("</main>", attack, 1), &[]) {
        assert!(dom.contains("data-ready=\"yes\"") && !dom.contains("data-attacked"));
    }
}

/// Loads `page` with `script` after everything; the script writes what it found into `<pre id="checks">`.
fn said_by(page: &str, script: &str) -> Option<String> {
    let (before, rest) = page.split_once("script-src '").unwrap();
    let (_, after) = rest.split_once('\'').unwrap();
    let page = format!("{before}script-src 'unsafe-inline'{after}");
    let listen = "<script>window.problems = [];\
        addEventListener('error', (e) => problems.push(e.message));\
        console.error = (...a) => problems.push(a.join(' '));</script>";
    let page = page.replacen("<style>", &format!("{listen}<style>"), 1);
    let dom = dump_dom(&page.replacen("</body>", &format!("<script>{script}</script></body>"), 1), &[])?;
    // None: the script did not finish.
    let (_, said) = dom.split_once("<pre id=\"checks\">").unwrap();
    Some(said.split_once("</pre>").unwrap().0.to_owned())
}

#[test]
fn samples_cannot_inject() {
    let hostile = "</script><img src=x onerror=\"document.documentElement.dataset.attacked='yes'\"><script>document.documentElement.dataset.attacked='yes'</script>";
    let mut data = sample::sample();
    for sample in &mut data.samples {
        (sample.kind, sample.about, sample.prompt) = (hostile.into(), hostile.into(), hostile.into());
        for response in &mut sample.responses {
            response.text = hostile.into();
            response.facts = vec![hostile.into()];
        }
        sample.responses[0].method = hostile.into();
    }
    for method in &mut data.methods {
        method.name = format!("{hostile}{}", method.name);
        method.findings.iter_mut().for_each(|f| (f.seen, f.advice) = (hostile.into(), hostile.into()));
    }
    let script = "const samples = document.querySelector('.samples'); samples.open = true;\
        samples.dispatchEvent(new Event('toggle'));\
        document.querySelector('.cursor').dispatchEvent(new PointerEvent('pointermove', { clientX: 300, clientY: 900 }));\
        const pre = document.createElement('pre'); pre.id = 'checks';\
        const shown = document.querySelectorAll('.sample').length;\
        pre.textContent = `${shown} ${document.images.length} ${document.documentElement.dataset.attacked} ${problems}`;\
        document.body.append(pre);";
    if let Some(said) = said_by(&render_report(&data), script) {
        assert_eq!(said, "6 0 undefined ", "samples, images, attacked, errors");
    }
}

/// Prints what was measured; the bounds are wide, for machines that are busy.
#[test]
fn ten_thousand_samples_stay_responsive() {
    let page = render_report(&sample::many_samples(10_000));
    let script = "const time = (what) => { const from = performance.now(); what(); document.body.offsetHeight; return Math.round(performance.now() - from); };\
        const samples = document.querySelector('.samples');\
        const opened = time(() => { samples.open = true; samples.dispatchEvent(new Event('toggle')); });\
        const kind = time(() => document.querySelector('[data-kind=\"2\"]').click());\
        const differ = time(() => document.querySelector('[data-only=\"differ\"]').click());\
        const next = time(() => document.querySelector('.pager .next').click());\
        const count = document.querySelectorAll('.sample').length;\
        const hide = time(() => document.querySelector('[data-family=\"0\"]').click());\
        const pre = document.createElement('pre'); pre.id = 'checks';\
        pre.textContent = [count, opened, kind, differ, next, hide].join(' ');\
        document.body.append(pre);";
    if let Some(said) = said_by(&page, script) {
        eprintln!(
            "{} bytes; samples built, ms to open, filter by kind, filter by disagreement, next page, hide a method: {said}",
            page.len()
        );
        let numbers: Vec<u64> = said.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0], 20, "{said}");
        assert!(numbers[1] < 10_000 && numbers[2..].iter().all(|ms| *ms < 2_000), "{said}");
    }
}
