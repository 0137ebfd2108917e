//! A hub on this machine: it speaks the paths of Hugging Face's, and misbehaves when told to.
#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the transfer of one file goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next transfers break off after so many bytes each, so many times.
    CutAfter(usize, usize),
    /// Other bytes of the same length.
    OtherBytes,
    /// Bytes too many.
    TooLong,
    /// `Range` is not understood.
    NoResume,
}

#[derive(Default)]
pub struct Repos {
    /// `models/org/name` or `datasets/org/name` to files.
    pub repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// By file name.
    pub faults: BTreeMap<String, Fault>,
    /// Requests: the path and the headers range and authorization.
    pub seen: Vec<(String, Option<String>, Option<String>)>,
    /// A token without which everything is refused.
    pub needs_token: Option<String>,
    /// How to hash a file for the list.
    pub sha256: Option<fn(&[u8]) -> String>,
}

/// The server; its threads end with the process.
pub struct LocalHub {
    pub endpoint: String,
    pub state: Arc<Mutex<Repos>>,
}

impl LocalHub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Repos::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { endpoint, state }
    }

    pub fn put(&self, repo: &str, file: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.repos.entry(repo.to_owned()).or_default().insert(file.to_owned(), bytes.to_vec());
    }

    pub fn fail(&self, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(file.to_owned(), fault);
    }

    /// Requests whose path contains `part`.
    pub fn requests(&self, part: &str) -> Vec<(String, Option<String>, Option<String>)> {
        self.state.lock().unwrap().seen.iter().filter(|(path, ..)| path.contains(part)).cloned().collect()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<Repos>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (None, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).is_err() || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match name.to_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "authorization" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    state.seen.push((path.clone(), range.clone(), token.clone()));
    let allowed = state.needs_token.as_ref().is_none_or(|t| token == Some(format!("Bearer {t}")));
    let reply = if allowed { reply(&mut state, &path, range) } else { plain(401, b"no") };
    drop(state);
    let _ = stream.write_all(&reply);
}

fn plain(status: u16, body: &[u8]) -> Vec<u8> {
    let mut out =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
            .into_bytes();
    out.extend(body);
    out
}

fn reply(state: &mut Repos, path: &str, range: Option<String>) -> Vec<u8> {
    let plain_path = path.split('?').next().unwrap_or_default();
    if let Some(rest) = plain_path.strip_prefix("/api/") {
        let Some((repo, revision)) = rest.split_once("/revision/") else { return plain(404, b"") };
        let Some(files) = state.repos.get(repo).filter(|_| ["main", "v1", COMMIT].contains(&revision)) else {
            return plain(404, b"");
        };
        let hash = state.sha256;
        let siblings: Vec<String> = files
            .iter()
            .map(|(name, bytes)| {
                let lfs = hash
                    .map(|hash| format!(",\"lfs\":{{\"sha256\":\"{}\"}}", hash(bytes)))
                    .unwrap_or_default();
                format!("{{\"rfilename\":\"{name}\",\"size\":{}{lfs}}}", bytes.len())
            })
            .collect();
        return plain(
            200,
            format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", siblings.join(",")).as_bytes(),
        );
    }
    let Some((repo, rest)) = plain_path[1..].split_once("/resolve/") else { return plain(404, b"") };
    let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
    let Some((_, file)) = rest.split_once('/') else { return plain(404, b"") };
    let Some(mut bytes) = state.repos.get(&repo).and_then(|files| files.get(file)).cloned() else {
        return plain(404, b"");
    };
    let fault = state.faults.get(file).copied();
    match fault {
        Some(Fault::OtherBytes) => bytes.iter_mut().for_each(|b| *b ^= 1),
        Some(Fault::TooLong) => bytes.extend(b"and more"),
        _ => {}
    }
    let from = range
        .filter(|_| fault != Some(Fault::NoResume))
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    if from.is_some_and(|from| from >= bytes.len()) {
        return plain(416, b"");
    }
    let status = if from.is_some() { 206 } else { 200 };
    let mut out = plain(status, &bytes[from.unwrap_or(0)..]);
    if let Some(Fault::CutAfter(count, times)) = fault {
        let head = out.len() - (bytes.len() - from.unwrap_or(0));
        out.truncate(head + count);
        let next = if times > 1 { Some(Fault::CutAfter(count, times - 1)) } else { None };
        match next {
            Some(next) => state.faults.insert(file.to_owned(), next),
            None => state.faults.remove(file),
        };
    }
    out
}
