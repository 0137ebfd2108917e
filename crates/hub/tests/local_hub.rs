//! Repositories from a hub on this machine: what is fetched, resumed, refused, and taken from the cache.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use bso_durable::{Event, Observer, Silent};
use bso_hub::{Hub, Name, RepoKind, Settings, everything};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use support::{COMMIT, Fault, LocalHub};

struct Place {
    hub: LocalHub,
    cache: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { hub: LocalHub::start(), cache: tempfile::tempdir().unwrap() };
        place.hub.state.lock().unwrap().sha256 = Some(sha256);
        place
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.endpoint.clone(),
            cache: self.cache.path().to_owned(),
            token: None,
            offline: false,
        }
    }

    fn with_rows() -> Self {
        let place = Self::new();
        place.hub.put("datasets/org/pairs", "data/train.jsonl", &rows());
        place.hub.put("datasets/org/pairs", "README.md", b"words");
        place
    }

    fn pairs(&self) -> Result<PathBuf, String> {
        obtain(self.settings(), "org/pairs", RepoKind::Dataset)
    }
}

fn rows() -> Vec<u8> {
    (0..20_000).flat_map(|i| format!("{{\"a\": {i}}}\n").into_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn obtain(settings: Settings, name: &str, kind: RepoKind) -> Result<PathBuf, String> {
    Hub::new(settings)
        .obtain(&Name::parse(name).unwrap(), kind, &everything, &Silent)
        .map_err(|e| e.to_string())
}

#[test]
fn a_data_set_is_fetched_once_and_then_taken_from_the_cache() {
    let place = Place::with_rows();
    let folder = place.pairs().unwrap();
    assert_eq!(folder, place.cache.path().join("datasets--org--pairs/snapshots").join(COMMIT));
    assert_eq!(std::fs::read(folder.join("data/train.jsonl")).unwrap(), rows());
    assert!(!folder.join("README.md").exists());
    let refs = place.cache.path().join("datasets--org--pairs/refs/main");
    assert_eq!(std::fs::read_to_string(refs).unwrap(), COMMIT);
    assert_eq!(place.pairs().unwrap(), folder);
    assert_eq!(place.hub.requests("/resolve/").len(), 1);
    assert_eq!(
        place.hub.requests("/resolve/")[0].0,
        format!("/datasets/org/pairs/resolve/{COMMIT}/data/train.jsonl")
    );
    let offline = Settings { offline: true, ..place.settings() };
    assert_eq!(obtain(offline.clone(), "org/pairs", RepoKind::Dataset).unwrap(), folder);
    assert_eq!(obtain(offline, &format!("org/pairs@{COMMIT}"), RepoKind::Dataset).unwrap(), folder);
}

#[test]
fn a_transfer_that_breaks_off_is_resumed_from_its_bytes() {
    let place = Place::with_rows();
    place.hub.fail("data/train.jsonl", Fault::CutAfter(50_000, 2));
    let folder = place.pairs().unwrap();
    assert_eq!(std::fs::read(folder.join("data/train.jsonl")).unwrap(), rows());
    let ranges: Vec<_> = place.hub.requests("/resolve/").into_iter().map(|(_, range, _)| range).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-".to_owned()), Some("bytes=100000-".to_owned())]);
}

#[test]
fn what_came_before_giving_up_is_kept_for_the_next_call() {
    let place = Place::with_rows();
    place.hub.fail("data/train.jsonl", Fault::CutAfter(10_000, 4));
    let error = place.pairs().unwrap_err();
    assert!(error.contains(&format!("after 40000 bytes of {}", rows().len())), "{error}");
    let offline = obtain(
        Settings { offline: true, ..place.settings() },
        &format!("org/pairs@{COMMIT}"),
        RepoKind::Dataset,
    );
    assert!(offline.unwrap_err().contains("interrupted"));
    let folder = place.pairs().unwrap();
    assert_eq!(std::fs::read(folder.join("data/train.jsonl")).unwrap(), rows());
    assert_eq!(place.hub.requests("/resolve/").last().unwrap().1.as_deref(), Some("bytes=40000-"));
}

#[test]
fn a_server_that_cannot_resume_sends_the_whole_again() {
    let place = Place::with_rows();
    place.hub.fail("data/train.jsonl", Fault::CutAfter(10_000, 4));
    place.pairs().unwrap_err();
    place.hub.fail("data/train.jsonl", Fault::NoResume);
    assert_eq!(std::fs::read(place.pairs().unwrap().join("data/train.jsonl")).unwrap(), rows());
}

#[test]
fn wrong_bytes_and_wrong_sizes_are_refused_and_deleted() {
    for (fault, said) in [(Fault::OtherBytes, "SHA-256"), (Fault::TooLong, "bytes instead of")] {
        let place = Place::with_rows();
        place.hub.fail("data/train.jsonl", fault);
        let error = place.pairs().unwrap_err();
        assert!(error.contains(said) && error.contains("data/train.jsonl"), "{error}");
        let blobs = place.cache.path().join("datasets--org--pairs/blobs");
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
        place.hub.state.lock().unwrap().faults.clear();
        assert!(place.pairs().is_ok());
    }
}

#[test]
fn the_token_goes_to_the_hub_and_its_absence_is_explained() {
    let place = Place::with_rows();
    place.hub.state.lock().unwrap().needs_token = Some("hf_secret".to_owned());
    let error = place.pairs().unwrap_err();
    assert!(
        error.contains("data set org/pairs") && error.contains("401") && error.contains("HF_TOKEN"),
        "{error}"
    );
    let settings = Settings { token: Some("hf_secret".to_owned()), ..place.settings() };
    obtain(settings, "org/pairs@v1", RepoKind::Dataset).unwrap();
    assert!(place.hub.requests("/resolve/")[0].2.as_deref() == Some("Bearer hf_secret"));
}

#[test]
fn what_is_not_to_be_had_names_what_where_and_the_remedy() {
    let place = Place::with_rows();
    let error = obtain(place.settings(), "org/nothing", RepoKind::Model).unwrap_err();
    assert!(
        error.contains("model org/nothing") && error.contains("/api/models/org/nothing/revision/main"),
        "{error}"
    );
    let error =
        obtain(Settings { offline: true, ..place.settings() }, "org/x@v9", RepoKind::Model).unwrap_err();
    assert!(
        error.contains("org/x@v9") && error.contains("models--org--x") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    let nobody = Settings { endpoint: "http://127.0.0.1:1".to_owned(), ..place.settings() };
    let error = obtain(nobody.clone(), "org/pairs", RepoKind::Dataset).unwrap_err();
    assert!(error.contains("127.0.0.1:1") && error.contains("HF_ENDPOINT"), "{error}");
    // With the files in the cache an unreachable hub is a warning.
    let folder = place.pairs().unwrap();
    struct Heard(Mutex<Vec<Event>>);
    impl Observer for Heard {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }
    let heard = Heard(Mutex::default());
    let again = Hub::new(nobody)
        .obtain(&Name::parse("org/pairs").unwrap(), RepoKind::Dataset, &everything, &heard)
        .unwrap();
    assert_eq!(again, folder);
    assert!(
        matches!(&heard.0.lock().unwrap()[..], [Event::Warning(text)] if text.contains("from the cache"))
    );
}

#[test]
fn a_local_path_wins_and_a_path_that_is_no_name_stays() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path(), Path::new("./no/such"), Path::new("data/none.jsonl")] {
        assert_eq!(bso_hub::locate(path, RepoKind::Dataset, &everything, &Silent).unwrap(), path);
    }
}

#[test]
fn progress_counts_bytes() {
    let place = Place::with_rows();
    struct Bytes(Mutex<(Option<u64>, u64)>);
    impl Observer for Bytes {
        fn event(&self, event: Event) {
            match event {
                Event::Started { total, unit: "bytes", .. } => self.0.lock().unwrap().0 = total,
                Event::Finished { done, .. } => self.0.lock().unwrap().1 = done,
                _ => {}
            }
        }
    }
    let bytes = Bytes(Mutex::default());
    Hub::new(place.settings())
        .obtain(&Name::parse("org/pairs").unwrap(), RepoKind::Dataset, &everything, &bytes)
        .unwrap();
    let size = rows().len() as u64;
    assert_eq!(*bytes.0.lock().unwrap(), (Some(size), size));
}

#[test]
fn only_the_files_selected_are_fetched_and_others_when_they_are() {
    let place = Place::new();
    for name in ["data/train.jsonl", "data/test.jsonl"] {
        // Equal files would be one blob.
        place.hub.put("datasets/org/pairs", name, &[name.as_bytes(), &rows()].concat());
    }
    let with = |settings: Settings, word: &'static str| {
        let of_split = move |files: Vec<PathBuf>| -> Result<Vec<PathBuf>, String> {
            let of_word: Vec<_> = files.into_iter().filter(|f| f.to_str().unwrap().contains(word)).collect();
            if of_word.is_empty() { Err(format!("it has no split {word}")) } else { Ok(of_word) }
        };
        let name = Name::parse("org/pairs").unwrap();
        Hub::new(settings).obtain(&name, RepoKind::Dataset, &of_split, &Silent).map_err(|e| e.to_string())
    };
    let folder = with(place.settings(), "train").unwrap();
    assert!(folder.join("data/train.jsonl").exists() && !folder.join("data/test.jsonl").exists());
    let offline = || Settings { offline: true, ..place.settings() };
    assert_eq!(with(offline(), "train").unwrap(), folder);
    let error = with(offline(), "test").unwrap_err();
    assert!(error.contains("fetched another split"), "{error}");
    assert!(with(place.settings(), "dev").unwrap_err().contains("data set org/pairs: it has no split dev"));
    assert_eq!(with(place.settings(), "test").unwrap(), folder);
    assert!(folder.join("data/test.jsonl").exists());
    assert_eq!(place.hub.requests("/resolve/").len(), 2);
    assert_eq!(with(offline(), "test").unwrap(), folder);
}
