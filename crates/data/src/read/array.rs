//! The elements of a JSON array as slices of text, so that a large array never stands in memory whole.
//! Splits by brackets and strings only; whether an element is JSON is for the parser to say.

use super::MAX_ROW_BYTES;
use std::io::{self, BufRead};

pub(super) enum Element {
    /// The array is closed.
    End,
    /// An element, in the buffer; others may follow.
    Text,
    /// The last element, in the buffer; the array is closed.
    Last,
    /// The array is malformed.
    Bad(String),
}

/// Reads the next element into `buffer`; the opening bracket is consumed already.
pub(super) fn next_element(reader: &mut dyn BufRead, buffer: &mut Vec<u8>) -> io::Result<Element> {
    buffer.clear();
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(Element::Bad("the file ends inside its JSON array".to_owned()));
        }
        let mut taken = 0;
        let mut end = None;
        for &byte in available {
            taken += 1;
            if in_string {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    b'}' | b']' | b',' if depth == 0 => {
                        end = Some(byte);
                        break;
                    }
                    _ => {}
                }
            }
            buffer.push(byte);
        }
        reader.consume(taken);
        if buffer.len() > MAX_ROW_BYTES {
            return Ok(Element::Bad(format!("an element is longer than {} MiB", MAX_ROW_BYTES >> 20)));
        }
        let blank = || buffer.iter().all(u8::is_ascii_whitespace);
        match end {
            None => {}
            Some(b',') if blank() => return Ok(Element::Bad("a comma without an element".to_owned())),
            Some(b',') => return Ok(Element::Text),
            Some(b']') if blank() => return Ok(Element::End),
            Some(b']') => return Ok(Element::Last),
            Some(_) => return Ok(Element::Bad("a closing brace too many".to_owned())),
        }
    }
}
