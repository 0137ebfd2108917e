//! The closed vocabulary: every word that a prompt or a candidate can hold.

use std::collections::BTreeSet;

use crate::candidate::Form;
use crate::facts::slot_words;
use crate::prompt::FRAMES;

/// Every word of SafeWorld, sorted, without repetition; marks of punctuation are words.
pub fn vocabulary() -> Vec<&'static str> {
    let glue = FRAMES.into_iter().flat_map(literal_words).chain(response_glue());
    glue.chain(slot_words()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The words of the candidate sentences that fill no slot, with repetitions.
pub(crate) fn response_glue() -> impl Iterator<Item = &'static str> {
    Form::ALL.into_iter().flat_map(|form| literal_words(form.template()))
}

fn literal_words(template: &'static str) -> impl Iterator<Item = &'static str> {
    template.split(' ').filter(|word| !word.starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidates;
    use crate::facts::{OBJECTS, PLACES, VERBS};
    use crate::prompt::Prompt;

    #[test]
    fn every_text_uses_the_vocabulary_and_every_word_is_used() {
        let known: BTreeSet<_> = vocabulary().into_iter().map(String::from).collect();
        let mut used = BTreeSet::new();
        for v in 0..VERBS.len() {
            for o in 0..OBJECTS.len() {
                for p in 0..PLACES.len() {
                    let prompt = Prompt::new(v, o, p);
                    used.extend(prompt.text().split(' ').map(String::from));
                    for candidate in candidates(&prompt) {
                        used.extend(candidate.text.split(' ').map(String::from));
                    }
                }
            }
        }
        assert_eq!(known, used);
        assert!(known.len() <= 300);
        assert!(known.iter().all(|w| !w.is_empty() && *w == w.to_lowercase()));
    }

    #[test]
    fn glue_words_have_no_other_role() {
        let glue: BTreeSet<_> = FRAMES.into_iter().flat_map(literal_words).chain(response_glue()).collect();
        assert!(slot_words().all(|word| !glue.contains(word)));
    }
}
