//! What is done to a template's source before it is compiled, so that it means what Jinja2 reads in it:
//! line ends are normalised, `{% generation %}` becomes a plain block, and the escapes of string literals that only
//! Python knows are resolved. Text outside tags is never touched.

/// The source to compile.
pub(super) fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    loop {
        let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|t| rest.find(t)).min() else {
            out.push_str(rest);
            return out;
        };
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let tag = if rest.starts_with("{#") {
            comment(rest)
        } else {
            let (close, is_block) = if rest.starts_with("{%") { ("%}", true) } else { ("}}", false) };
            let length = tag_length(rest, close);
            let text = &rest[..length];
            if is_block && block_name(text) == "raw" {
                let end = raw_end(rest, length);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            out.push_str(&tag_text(text, is_block));
            rest = &rest[length..];
            continue;
        };
        out.push_str(&rest[..tag]);
        rest = &rest[tag..];
    }
}

fn comment(rest: &str) -> usize {
    rest.find("#}").map_or(rest.len(), |e| e + 2)
}

/// Length of the tag at the start of `rest`, its closing mark included; marks inside strings and braces of dictionaries
/// do not close it.
fn tag_length(rest: &str, close: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (2, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => at = string_end(bytes, at, quote),
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' if depth > 0 => depth -= 1,
            _ if rest.is_char_boundary(at) && rest[at..].starts_with(close) => return at + 2,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Position of the quote that ends the string beginning at `at` (or the last byte).
fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

fn block_name(tag: &str) -> &str {
    let inner = tag.get(2..).unwrap_or("").trim_start_matches(['-', '+']).trim_start();
    inner.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

fn raw_end(rest: &str, mut at: usize) -> usize {
    while let Some(found) = rest[at..].find("{%") {
        at += found;
        if block_name(&rest[at..]) == "endraw" {
            return rest[at..].find("%}").map_or(rest.len(), |e| at + e + 2);
        }
        at += 2;
    }
    rest.len()
}

fn tag_text(tag: &str, is_block: bool) -> String {
    if is_block {
        // A call block with its own scope and no effect on the text: what `with` is.
        match block_name(tag) {
            "generation" => return tag.replacen("generation", "with", 1),
            "endgeneration" => return tag.replacen("endgeneration", "endwith", 1),
            _ => {}
        }
    }
    resolve_strings(tag)
}

/// Rewrites string literals with escapes so that both engines read the same characters.
fn resolve_strings(tag: &str) -> String {
    let bytes = tag.as_bytes();
    let mut out = String::with_capacity(tag.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        if let quote @ (b'"' | b'\'') = bytes[at] {
            let end = string_end(bytes, at, quote);
            if let Some(inner) = tag.get(at + 1..end).filter(|s| s.contains('\\')) {
                out.push_str(&tag[copied..=at]);
                out.push_str(&escape(&unescape(inner)));
                copied = end;
            }
            at = end;
        }
        at += 1;
    }
    out.push_str(&tag[copied..]);
    out
}

/// Python's `unicode-escape`, as Jinja2 applies it to literals; an unknown escape keeps its backslash.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escape) = chars.next() else {
            out.push('\\');
            break;
        };
        let digits = |count: usize, chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let text: String = chars.clone().take(count).collect();
            let value = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == count)?;
            (0..count).for_each(|_| {
                chars.next();
            });
            Some(value)
        };
        match escape {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escape),
            '0'..='7' => {
                let mut value = escape.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.push(char::from_u32(value).unwrap_or('\u{fffd}'));
            }
            'x' | 'u' | 'U' => {
                let count = if escape == 'x' {
                    2
                } else if escape == 'u' {
                    4
                } else {
                    8
                };
                match digits(count, &mut chars) {
                    Some(value) => out.push(char::from_u32(value).unwrap_or('\u{fffd}')),
                    None => out.extend(['\\', escape]),
                }
            }
            _ => out.extend(['\\', escape]),
        }
    }
    out
}

/// The inverse for the engine used here: every character that needs it, escaped in the one way it surely knows.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\'' => out.push_str("\\'"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_rewritten() {
        let text = "a \\n {# {% generation %} #}{% raw %}{% generation %}'\\v'{% endraw %} b";
        assert_eq!(prepare(text), text);
        assert_eq!(prepare("{%- generation -%}x{%endgeneration%}"), "{%- with -%}x{%endwith%}");
        assert_eq!(prepare("a\r\nb\rc"), "a\nb\nc");
    }

    #[test]
    fn literals_mean_what_python_reads() {
        assert_eq!(prepare(r#"{{ '\x41\v\u2581\d"}}' }}"#), "{{ 'A\\u000b\u{2581}\\\\d\\\"}}' }}");
        assert_eq!(prepare(r#"{{ {'a': {'b': 1}}['a'] }}"#), r#"{{ {'a': {'b': 1}}['a'] }}"#);
    }

    #[test]
    fn unclosed_tags_and_strings_end_with_the_source() {
        for text in ["{{ 'abc", "{% if", "{# x", "{{ \"\\", "{% raw %} x", "{", "{{"] {
            assert!(prepare(text).starts_with(&text[..1]), "{text}");
        }
    }
}
