//! One file from the hub: resumed where it broke off, compared with the size and checksum that the hub's list gives.

use crate::cache::at;
use crate::error::HubError;
use crate::settings::Settings;
use bso_durable::Task;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Tries of one file within a call; later calls go on where these broke off.
const TRIES: u32 = 4;

/// An HTTP client that carries the token to the hub and to nobody it redirects to.
pub(crate) struct Client {
    agent: Agent,
    token: Option<String>,
}

/// A file to fetch.
pub(crate) struct Wanted<'a> {
    pub(crate) url: &'a str,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<&'a str>,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("bso/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Self { agent: config.into(), token: settings.token.clone() }
    }

    /// Asks for `url`, from byte `from` on.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call()
    }

    /// Brings `wanted` to `place` through `partial`, which keeps what has come if the transfer breaks off.
    pub(crate) fn fetch(
        &self,
        wanted: &Wanted<'_>,
        (partial, place): (&Path, &Path),
        task: &mut Task<'_>,
    ) -> Result<(), HubError> {
        let mut problem = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(200 << attempt));
            }
            match self.go_on(wanted, partial, task)? {
                None => {
                    check(wanted, partial)?;
                    return fs::rename(partial, place).map_err(at(place));
                }
                Some(broken) => problem = broken,
            }
        }
        let got = fs::metadata(partial).map_or(0, |about| about.len());
        let of = wanted.size.map(|size| format!(" of {size}")).unwrap_or_default();
        Err(HubError::BrokenOff { url: wanted.url.to_owned(), got, of, problem })
    }

    /// One transfer; `Some` says why it broke off.
    fn go_on(
        &self,
        wanted: &Wanted<'_>,
        partial: &Path,
        task: &mut Task<'_>,
    ) -> Result<Option<String>, HubError> {
        let mut here = fs::metadata(partial).map_or(0, |about| about.len());
        if wanted.size.is_some_and(|size| here > size) {
            fs::remove_file(partial).map_err(at(partial))?;
            here = 0;
        }
        if here > 0 && wanted.size == Some(here) {
            return Ok(None);
        }
        let response = match self.get(wanted.url, here) {
            Ok(response) => response,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let status = response.status().as_u16();
        let mut file = match status {
            206 => OpenOptions::new().append(true).open(partial).map_err(at(partial))?,
            // The whole again: this server does not resume.
            200 => File::create(partial).map_err(at(partial))?,
            416 => {
                fs::remove_file(partial).map_err(at(partial))?;
                return Ok(Some("the hub has fewer bytes than were kept of an earlier transfer".to_owned()));
            }
            _ => return Ok(Some(format!("HTTP status {status}"))),
        };
        let promised = response.body().content_length();
        let limit = wanted.size.map(|size| size - if status == 206 { here } else { 0 });
        // One byte more than promised is enough to see that there is too much.
        let mut body = response.into_body().into_reader().take(limit.unwrap_or(u64::MAX - 1) + 1);
        let (mut buffer, mut came) = (vec![0; 1 << 16], 0u64);
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Ok(Some(error.to_string())),
            };
            file.write_all(&buffer[..count]).map_err(at(partial))?;
            came += count as u64;
            task.advance(count as u64, String::new);
        }
        file.sync_all().map_err(at(partial))?;
        let short = limit.or(promised).is_some_and(|limit| came < limit);
        Ok(short.then(|| "the connection was closed early".to_owned()))
    }
}

/// Compares what has come with the list; what differs is deleted.
fn check(wanted: &Wanted<'_>, partial: &Path) -> Result<(), HubError> {
    let size = fs::metadata(partial).map_err(at(partial))?.len();
    let mut problem = wanted
        .size
        .filter(|wanted| *wanted != size)
        .map(|wanted| format!("{size} bytes instead of {wanted}"));
    if let (None, Some(sha256)) = (&problem, wanted.sha256) {
        let mut hasher = Sha256::new();
        let mut reader = BufReader::with_capacity(1 << 18, File::open(partial).map_err(at(partial))?);
        std::io::copy(&mut reader, &mut hasher).map_err(at(partial))?;
        let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if !found.eq_ignore_ascii_case(sha256) {
            problem = Some(format!("its SHA-256 is {found} instead of {sha256}"));
        }
    }
    match problem {
        None => Ok(()),
        Some(problem) => {
            fs::remove_file(partial).map_err(at(partial))?;
            Err(HubError::Damaged { url: wanted.url.to_owned(), problem })
        }
    }
}
