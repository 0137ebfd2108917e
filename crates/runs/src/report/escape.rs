//! Untrusted text on its way into the page: the only functions that let it through.

use serde::Serialize;

/// Longest text shown of one prompt or response, in characters.
const MAX_SHOWN: usize = 6000;

/// Text without control characters and without those that reorder what stands around them; each becomes the
/// replacement character. For text that the script shows.
pub(crate) fn plain(text: &str) -> String {
    let is_hidden = |c: char| {
        let reorders =
            matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        reorders || c.is_control() && c != '\n' && c != '\t'
    };
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// [`plain`] text for element content and for attribute values in either quotes.
pub(crate) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in plain(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// As [`plain`], cut where it would swamp the page; the cut is said.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        None => plain(text),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{} [{more} more characters]", plain(&text[..end]))
        }
    }
}

/// JSON for the inside of a `<script type="application/json">`: neither an end tag nor a comment can begin in it.
pub(crate) fn json_in_script(value: &impl Serialize) -> String {
    // Serialising plain numbers and strings does not fail; an empty object keeps the page readable if it did.
    let json = serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned());
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_opens_markup_survives() {
        assert_eq!(html("<a b=\"c\" d='e'>&"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
        assert_eq!(html("a\u{202e}b\0"), "a\u{fffd}b\u{fffd}");
        let json = json_in_script(&"</script><!--\u{2028}&");
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "</script><!--\u{2028}&");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let shown = excerpt(&"é".repeat(MAX_SHOWN + 5));
        assert!(shown.ends_with("é [5 more characters]"), "{}", &shown[shown.len() - 50..]);
    }
}
