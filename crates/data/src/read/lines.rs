//! One line of a file at a time, of bounded length.

use super::MAX_ROW_BYTES;
use std::io::{self, BufRead};

pub(super) enum Line {
    /// The file is at its end.
    End,
    /// Nothing but whitespace.
    Blank,
    /// A line, in the buffer.
    Text,
    /// A line beyond the limit; it was passed over.
    TooLong,
}

/// Reads the next line into `buffer`, without its end.
pub(super) fn read_line(reader: &mut dyn BufRead, buffer: &mut Vec<u8>) -> io::Result<Line> {
    buffer.clear();
    let (mut any, mut too_long) = (false, false);
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            break;
        }
        any = true;
        let end = available.iter().position(|&b| b == b'\n');
        let piece = &available[..end.unwrap_or(available.len())];
        too_long |= buffer.len() + piece.len() > MAX_ROW_BYTES;
        if too_long {
            buffer.clear();
        } else {
            buffer.extend_from_slice(piece);
        }
        let consumed = end.map_or(available.len(), |e| e + 1);
        reader.consume(consumed);
        if end.is_some() {
            break;
        }
    }
    Ok(match (any, too_long) {
        (false, _) => Line::End,
        (_, true) => Line::TooLong,
        _ if buffer.iter().all(u8::is_ascii_whitespace) => Line::Blank,
        _ => Line::Text,
    })
}
