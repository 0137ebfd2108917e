//! The page of `bso watch` over HTTP, for one reader on the same machine. Two answers exist, the page and its state; no part of
//! a request names a file. A page on another site cannot read them: the host of a request must be this one (DNS rebinding), and
//! the answers may be embedded nowhere.

use super::Watched;
use bso_durable::Interrupt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests answered at a time; further ones wait in the system's queue.
const AT_ONCE: usize = 8;
/// A request without a body is shorter.
const LONGEST_REQUEST: usize = 16 * 1024;
/// For a request to arrive and for an answer to leave.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks of a page.
const EVERY: Duration = Duration::from_secs(2);

/// Answers requests until the user asks to stop. Nothing is written anywhere.
///
/// # Errors
/// When the listener fails; a failed connection ends alone.
pub fn serve(listener: &TcpListener, watched: Watched, interrupt: &Interrupt) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let host = listener.local_addr()?.ip();
    let (watched, busy) = (Arc::new(Mutex::new(watched)), Arc::new(AtomicUsize::new(0)));
    while !interrupt.is_raised() {
        if busy.load(Ordering::SeqCst) >= AT_ONCE {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                let (watched, busy) = (watched.clone(), busy.clone());
                busy.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    // A reader that went away is no fault of ours.
                    let _ = answer(stream, &watched, host);
                    busy.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(30)),
            // The peer gave up before it was accepted, or the process is out of files for a moment.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, watched: &Mutex<Watched>, host: IpAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(request) = read_request(&mut stream)? else {
        return respond(&mut stream, "400 Bad Request", "text/plain", "no request", true);
    };
    let (status, kind, body) = match request.path.as_deref() {
        None => ("405 Method Not Allowed", "text/plain", "only GET".to_owned()),
        Some(_) if !is_own_host(request.host.as_deref(), host) => {
            ("403 Forbidden", "text/plain", "this page is served for this machine alone".to_owned())
        }
        Some("/") => ("200 OK", "text/html", lock(watched).page(EVERY).to_owned()),
        Some("/state") => ("200 OK", "application/json", state(&lock(watched))),
        Some(_) => ("404 Not Found", "text/plain", "there are / and /state".to_owned()),
    };
    respond(&mut stream, status, kind, &body, request.wants_body)
}

fn lock(watched: &Mutex<Watched>) -> std::sync::MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

fn state(watched: &Watched) -> String {
    let look = watched.look();
    serde_json::json!({ "version": look.version.to_string(), "says": look.says() }).to_string()
}

struct Request {
    /// None for anything but GET and HEAD.
    path: Option<String>,
    wants_body: bool,
    host: Option<String>,
}

/// The head of a request; none where it is none, too long or too slow.
fn read_request(stream: &mut TcpStream) -> io::Result<Option<Request>> {
    let deadline = Instant::now() + PATIENCE;
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST_REQUEST {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(count) => head.extend_from_slice(&piece[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(parse(&String::from_utf8_lossy(&head)))
}

fn parse(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, protocol) = (words.next()?, words.next()?, words.next()?);
    if !protocol.starts_with("HTTP/1.") || words.next().is_some() {
        return None;
    }
    let path = target.split('?').next().unwrap_or(target).to_owned();
    let host =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("host"));
    Some(Request {
        path: ["GET", "HEAD"].contains(&method).then_some(path),
        wants_body: method != "HEAD",
        host: host.map(|(_, value)| value.trim().to_owned()),
    })
}

/// On a loopback address a request must name this machine as its host. Elsewhere the user chose to be reached by other names.
fn is_own_host(host: Option<&str>, bound: IpAddr) -> bool {
    if !bound.is_loopback() {
        return true;
    }
    let Some(host) = host else { return false };
    let is_port = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.is_empty() => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn respond(stream: &mut TcpStream, status: &str, kind: &str, body: &str, wants_body: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if wants_body {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_a_host() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        for own in ["127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765", "127.0.0.1"] {
            assert!(is_own_host(Some(own), loopback), "{own}");
        }
        for other in ["evil.example:8765", "127.0.0.1.evil.example", "10.0.0.1:8765", "", "localhost.evil"] {
            assert!(!is_own_host(Some(other), loopback), "{other}");
        }
        assert!(!is_own_host(None, loopback));
        assert!(is_own_host(Some("box:8765"), [0, 0, 0, 0].into()));
    }

    #[test]
    fn requests_are_read_or_refused() {
        let get = parse("GET /state?x=1 HTTP/1.1\r\nHOST: localhost:1\r\n\r\n").unwrap();
        assert_eq!((get.path.as_deref(), get.host.as_deref()), (Some("/state"), Some("localhost:1")));
        assert!(parse("POST / HTTP/1.1\r\n\r\n").unwrap().path.is_none());
        assert!(!parse("HEAD / HTTP/1.1\r\n\r\n").unwrap().wants_body);
        assert!(parse("nonsense").is_none() && parse("GET / HTTP/2\r\n\r\n").is_none());
    }
}
