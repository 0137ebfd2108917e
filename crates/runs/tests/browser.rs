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
